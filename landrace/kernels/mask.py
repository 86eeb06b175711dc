"""Which positions of a sequence a position sees. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Position = TypeVar("Position", int, float, "Tensor")


@dataclass(frozen=True)
class Full:
    """A position sees all of its past, and itself."""

    sees_ahead: ClassVar[bool] = False
    """Whether it sees positions after its own as well."""

    def first_seen(self, position: Position) -> Position:
        """The first position that `position` sees; one below 0 says that it sees everything before it."""
        return 0 * position


@dataclass(frozen=True)
class Sliding:
    """Position i sees j <= i when i - j < window."""

    window: int
    sees_ahead: ClassVar[bool] = False

    def first_seen(self, position: Position) -> Position:
        """See `Full`."""
        return position - self.window + 1


@dataclass(frozen=True)
class Chunked:
    """Position i sees j <= i in its own chunk: i // chunk == j // chunk (Llama 4)."""

    chunk: int
    sees_ahead: ClassVar[bool] = False

    def first_seen(self, position: Position) -> Position:
        """See `Full`."""
        return position // self.chunk * self.chunk


@dataclass(frozen=True)
class Whole:
    """A position sees all of its sequence (encoders), so the rows of a sequence come in one step."""

    sees_ahead: ClassVar[bool] = True

    def first_seen(self, position: Position) -> Position:
        """See `Full`."""
        return 0 * position


Mask = Full | Sliding | Chunked | Whole
FULL = Full()
WHOLE = Whole()
