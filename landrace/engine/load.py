"""`EngineLoad`: what an engine holds and has done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GroupLoad:
    """One group of the cache. What is kept for later prompts only counts as free: it is given up for others."""

    unit: Literal["tokens", "states"]
    held: int
    """By requests."""
    free: int


@dataclass(frozen=True)
class EngineLoad:
    """At one moment."""

    running: int
    """Requests that take part in steps."""
    waiting: int
    groups: tuple[GroupLoad, ...]
    steps: int
    tokens: int
    """Tokens of prompts and answers that were computed; guesses are not counted."""
