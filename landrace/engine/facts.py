"""`EngineFacts`: how an engine stands, in plain numbers that travel between processes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheFacts:
    """A cache group, in tokens; one of recurrent layers in states. A group under a window, and one whose entries stand
    for several positions, counts the positions that it has room for."""

    kind: str
    """"all", "window" or "states"."""
    size: int
    held: int
    """What requests hold."""
    reusable: int
    """What nobody holds and a later request may go on from, until it is given to somebody else."""

    @property
    def free(self) -> int:
        """What a newcomer may have."""
        return self.size - self.held


@dataclass(frozen=True)
class EngineFacts:
    """`running`, `waiting` and `cache` are of now, everything else is counted from the engine's beginning."""

    running: int
    waiting: int
    cache: tuple[CacheFacts, ...]
    steps: int
    step_seconds: float
    """Of all steps together: as much as all `machine_seconds`."""
    prompt_tokens: int
    """Computed tokens of prompts; those that are computed again after a pre-emption count again."""
    generated_tokens: int
    reused_tokens: int
    """Tokens that requests found in the prefix cache when they first started."""
    preemptions: int
    drafted_tokens: int
    accepted_tokens: int
