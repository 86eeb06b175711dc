"""How the rows of a step and their past are cut for attention over a paged cache (`attention`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

SPAN = 256
"""Positions."""
_ROWS = 64
"""Rows of a tile at least, which are those of so many heads as share keys: with fewer the compiler takes another matrix
instruction."""
MOST_SHARING = 16
"""Heads that share keys at most."""
WIDEST = 256
"""Channels of a head at most."""


@dataclass(frozen=True)
class HeadSizes:
    """What decides how a step's rows are cut."""

    sharing: int
    """Heads that share keys."""
    channels: int
    dtype: torch.dtype

    def rows(self, most_rows: int) -> int:
        """Of a tile, those of all heads that share keys, where a sequence has so many rows at most."""
        if self.dtype == torch.float32:
            return 16  # no matrix instruction, and few registers
        return _ROWS if most_rows * self.sharing <= _ROWS or self.channels > 128 else 2 * _ROWS

    def together(self, most_rows: int) -> int:
        """How many rows of a sequence a tile has."""
        return self.rows(most_rows) // self.sharing

    @property
    def tile(self) -> int:
        """Positions of a tile."""
        return 32 if self.dtype == torch.float32 else 64


@dataclass(frozen=True)
class PagedPlan:
    """Where the rows of a step find their past."""

    tiles: Tensor
    """[n, 5] int64: rows of one sequence that are computed together. The address of the sequence's slots (int64), the
    position of the first of those, the packed row and the position of the first row, and how many rows there are; 0:
    the tile is nobody's. Whoever makes the plan keeps the slots."""
    n_spans: int
    """How many spans a row sees at most. 1: the spans of a row are not shared out, however many."""
    most_rows: int
    """Rows that a sequence has at most."""


Tile = tuple[int, int, int, int, int]


def tiles_of(
    starts: Sequence[int], sequence_slots: Sequence[Tensor], firsts: Sequence[int], together: int
) -> list[Tile]:
    """`PagedPlan.tiles` of sequences with rows from starts[s] to starts[s + 1] and the slots of their positions from
    firsts[s] on."""
    tiles = []
    for (start, end), slots, first in zip(pairwise(starts), sequence_slots, firsts, strict=True):
        address, shift = slots.data_ptr(), first + slots.numel() - end
        for row in range(start, end, together):
            tiles.append((address, first, row, row + shift, min(together, end - row)))
    tiles.reverse()  # last rows see most, and what takes long begins first
    return tiles


def spans_seen(sequence_slots: Sequence[Tensor], firsts: Sequence[int]) -> int:
    """The most spans that the positions of a sequence lie in."""
    ends = (first + slots.numel() for slots, first in zip(sequence_slots, firsts, strict=True))
    return max((end - 1) // SPAN - first // SPAN + 1 for end, first in zip(ends, firsts, strict=True))


def plan_paged(
    starts: Sequence[int],
    sequence_slots: Sequence[Tensor],
    firsts: Sequence[int],
    sizes: HeadSizes,
    device: torch.device,
) -> PagedPlan:
    """Of one step: see `tiles_of`."""
    most_rows = max(end - start for start, end in pairwise(starts))
    tiles = tiles_of(starts, sequence_slots, firsts, sizes.together(most_rows))
    return PagedPlan(torch.tensor(tiles).to(device), spans_seen(sequence_slots, firsts), most_rows)
