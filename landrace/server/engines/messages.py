"""What travels on the pipe between an engine's process and the one that started it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from landrace.engine.facts import EngineFacts
from landrace.engine.options import EngineOptions
from landrace.engine.outputs import StepOutput
from landrace.engine.request import Request
from landrace.errors import LandraceError, RequestError
from landrace.server.logs.options import LogFormat

if TYPE_CHECKING:
    from landrace.server.engines.abilities import Abilities
    from landrace.text import Tokenizer


@dataclass(frozen=True)
class EngineSettings:
    """What the engine process opens."""

    model: str
    adapters: Mapping[str, Path] = field(default_factory=dict)
    weights: str = "stored"
    kernels: str = "auto"
    threads: int | None = None
    options: EngineOptions = field(default_factory=EngineOptions)
    step_seconds: float = 600.0
    """The longest that one step may take before the process counts as hanging."""
    log_format: LogFormat = "text"


@dataclass(frozen=True)
class ProcessFacts:
    """How an engine stands, and its process."""

    engine: EngineFacts
    """Counted since the process began."""
    resident_bytes: int
    """Memory of the process."""
    restarts: int = 0
    """How often a process of it was replaced."""


@dataclass(frozen=True)
class Opening:
    """This adapter is being opened: should the process not survive it, it is known which one it was."""

    adapter: str


@dataclass(frozen=True)
class Ready:
    """The model is open. The tokenizer travels, so that the HTTP side needs neither the checkpoint nor torch."""

    max_length: int
    shifts: bool
    """Whether what is longer goes on without its oldest part."""
    tokenizer: Tokenizer
    fingerprints: Mapping[str | None, str]
    """Of each adapter by name, and under None that of the model alone."""
    notice: str | None
    """What the user should know about how it is served."""
    abilities: Abilities
    facts: ProcessFacts
    lost: Mapping[str, LandraceError] = field(default_factory=dict)
    """The adapters that could not be opened, and why."""


@dataclass(frozen=True)
class Failed:
    """The model could not be opened."""

    error: LandraceError


@dataclass(frozen=True)
class Posted:
    """A request on its way: should it not be readable at the other end, its name still is."""

    request_id: str
    pickled: bytes

    @classmethod
    def of(cls, request: Request) -> Posted:
        return cls(request.id, pickle.dumps(request))


@dataclass(frozen=True)
class Abort:
    """The client of a request is gone."""

    request_id: str


@dataclass(frozen=True)
class LoadAdapter:
    """Open an adapter by a name that no other has. Answered by `Done`."""

    name: str
    folder: Path


@dataclass(frozen=True)
class UnloadAdapter:
    """Take an adapter off that no request uses. Answered by `Done`."""

    name: str


@dataclass(frozen=True)
class Done:
    """What came of loading or unloading the adapter of this name."""

    name: str
    fingerprint: str | None = None
    """Of one that was loaded."""
    error: LandraceError | None = None


@dataclass(frozen=True)
class Beat:
    """The process runs."""

    progress: int
    """Grows with each message it took and each step it made."""
    busy: bool
    """Whether it is at one of these now; else it waits for messages."""
    facts: ProcessFacts


@dataclass(frozen=True)
class Stop:
    """End the process."""


@dataclass(frozen=True)
class Ended:
    """Not sent but told by the reading end: the process is no more."""

    exit_code: int | None


ToWorker = Posted | Abort | LoadAdapter | UnloadAdapter | Stop
FromWorker = Opening | Ready | Failed | Done | Beat | list[StepOutput]


def refusal(request_id: str, error: RequestError) -> StepOutput:
    """The only output of a request that never began."""
    return StepOutput(
        request_id=request_id,
        token_ids=(),
        text="",
        logprobs=(),
        prompt_logprobs=(),
        finish_reason="error",
        error=error,
        cached_prompt_tokens=0,
        seed=None,
    )
