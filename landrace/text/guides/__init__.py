"""Guides: what an answer must be, from a schema, a pattern, a list of choices or a grammar; and the way through one.

A `Guide` is plain data and travels between processes. `GuideCompiler`, one a tokenizer, makes a `Walk` of it, which
follows one answer token by token: which tokens may come next, which one must, and whether the answer is complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from landrace.text.guides.compiler import JSON_FORMAT, GuideCompiler
from landrace.text.guides.guide import Guide
from landrace.text.guides.vocabulary import either
from landrace.text.guides.walk import Walk, work_out_masks

if TYPE_CHECKING:
    from landrace.text.tokenizer import Tokenizer

__all__ = ["JSON_FORMAT", "Guide", "GuideCompiler", "Walk", "check_guide", "either", "work_out_masks"]


def check_guide(guide: Guide, tokenizer: Tokenizer) -> None:
    """Raises RequestError, field `guide`, that names what of it is not supported or too large."""
    tokenizer.guides.check(guide)
