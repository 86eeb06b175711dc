"""Which positions of a sequence a position sees. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Position = TypeVar("Position", int, float, "Tensor")


@dataclass(frozen=True)
class Full:
    """A position sees all of its past, and itself."""

    def first_seen(self, position: Position) -> Position:
        """The first position that `position` sees; one below 0 says that it sees everything before it."""
        return 0 * position


@dataclass(frozen=True)
class Sliding:
    """Position i sees j <= i when i - j < window."""

    window: int

    def first_seen(self, position: Position) -> Position:
        """See `Full`."""
        return position - self.window + 1


@dataclass(frozen=True)
class Chunked:
    """Position i sees j <= i in its own chunk: i // chunk == j // chunk (Llama 4)."""

    chunk: int

    def first_seen(self, position: Position) -> Position:
        """See `Full`."""
        return position // self.chunk * self.chunk


Mask = Full | Sliding | Chunked
FULL = Full()
