"""What a checkpoint says of its vectors, as plain facts that travel between processes. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from landrace.embedding.dense import Dense
from landrace.engine.readout import PoolKind


@dataclass(frozen=True)
class PoolingFacts:
    """How rows become one vector, and who says so."""

    kinds: tuple[PoolKind, ...]
    reason: str
    include_prompt: bool = True
    """Whether the rows of a prompt before the text count."""


@dataclass(frozen=True)
class Modules:
    """What a checkpoint says; all that it leaves open is None or empty."""

    transformer: Path
    """The folder or file with the weights."""
    pooling: PoolingFacts | None = None
    after: tuple[Dense | None, ...] = ()
    """What the pooled vector passes through, in order; None: it is normalised there."""
    listed: bool = False
    """Whether there is a list of modules, which then says whether vectors are normalised."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str | None = None
    max_length: int | None = None
    lower_case: bool = False
