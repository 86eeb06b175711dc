"""Requests in, tokens out.

What describes a request imports without torch; `Engine` is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from landrace.engine.options import EngineOptions
from landrace.engine.outputs import Completion, StepOutput, TokenLogprob
from landrace.engine.request import Request
from landrace.engine.sampling_params import SamplingParams

if TYPE_CHECKING:
    from landrace.engine.engine import Engine

__all__ = ["Completion", "Engine", "EngineOptions", "Request", "SamplingParams", "StepOutput", "TokenLogprob"]


def __getattr__(name: str) -> Any:
    if name == "Engine":
        from landrace.engine.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
