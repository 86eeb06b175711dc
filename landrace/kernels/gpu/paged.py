"""How the rows of a step and their past are cut for attention over a paged cache (`attention`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

SPAN = 512
_ROWS = 64
"""Rows of a tile at least, which are those of so many heads as share keys: with fewer the compiler takes another matrix
instruction."""
MOST_SHARING = 16
"""Heads that share keys at most."""
WIDEST = 256
"""Channels of a head at most."""


@dataclass(frozen=True)
class PagedPlan:
    """Where the rows of a step find their past. S sequences, whose rows lie end to end."""

    tiles: Tensor
    """[n, 2] int32: a sequence, and the first of its rows that are computed together."""
    starts: Tensor
    """[S + 1] int32: where its rows begin."""
    past: Tensor
    """[S, 3] int64: the address of its slots (int64), how many there are, and the position of the first. Whoever makes
    the plan keeps the slots."""
    n_spans: int
    """How many spans a row sees at most."""
    most_rows: int
    """Rows that a sequence has at most."""


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

    @property
    def tile(self) -> int:
        """Positions of a tile."""
        return 32 if self.dtype == torch.float32 else 64


def spans_seen(lengths: Sequence[int], firsts: Sequence[int]) -> int:
    """The most spans that the positions from each of `firsts` on lie in, which are so many."""
    return max((first + n - 1) // SPAN - first // SPAN + 1 for n, first in zip(lengths, firsts, strict=True))


def past_of(sequence_slots: Sequence[Tensor], firsts: Sequence[int]) -> Tensor:
    """[S, 3] int64 in main memory: `PagedPlan.past`."""
    told = [(slots.data_ptr(), slots.numel(), first) for slots, first in zip(sequence_slots, firsts, strict=True)]
    return torch.tensor(told, dtype=torch.int64)


def plan_paged(
    starts: Sequence[int],
    sequence_slots: Sequence[Tensor],
    firsts: Sequence[int],
    sizes: HeadSizes,
    device: torch.device,
) -> PagedPlan:
    """Of sequences with rows from starts[s] to starts[s + 1] and the slots of their positions from firsts[s] on."""
    n_rows = [end - start for start, end in pairwise(starts)]
    together = sizes.rows(max(n_rows)) // sizes.sharing
    tiles = [(s, first) for s, n in enumerate(n_rows) for first in range(0, n, together)]
    tiles.reverse()  # last rows see most, and what takes long begins first
    lengths = [slots.numel() for slots in sequence_slots]
    return PagedPlan(
        torch.tensor(tiles, dtype=torch.int32).to(device),
        torch.tensor(starts, dtype=torch.int32).to(device),
        past_of(sequence_slots, firsts).to(device),
        spans_seen(lengths, firsts),
        max(n_rows),
    )


def plan_rows(past: Tensor, n_keys: int, *, whole: bool) -> PagedPlan:
    """Of sequences with one row each, and at most so many keys. `past`: as of a `PagedPlan`, read when attention is
    computed. `whole`: all of them begin at position 0."""
    n = past.shape[0]
    rows = torch.arange(n + 1, dtype=torch.int32, device=past.device)
    tiles = torch.stack((rows[:n], torch.zeros_like(rows[:n])), 1)
    return PagedPlan(tiles, rows, past, -(-n_keys // SPAN) + (not whole), 1)
