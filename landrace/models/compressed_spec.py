"""Attention over a window and over rows that are compressed from all positions before it, as frozen facts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from landrace.kernels.mask import FULL, Mask, Sliding
from landrace.models.cache_spec import Kept, Paged

if TYPE_CHECKING:
    from landrace.models.mixer_spec import RopeSpec


@dataclass(frozen=True)
class CompressedSelection:
    """Which compressed rows a row attends to: the `top_k` that an indexer scores highest, of equal ones the earlier.
    Where it sees no more than `top_k`, all of them. Scores are those of `Selection`, with keys that are compressed
    too."""

    n_heads: int
    head_dim: int
    top_k: int

    @property
    def scale(self) -> float:
        """Factor on the scores. It keeps their order, but for what is rounded."""
        return 1 / math.sqrt(self.n_heads * self.head_dim)


@dataclass(frozen=True)
class Compression:
    """A row for every `ratio` positions, counted from 0: the sum of a projection of theirs, each channel weighted by a
    softmax over positions of another projection plus a bias for the place; then normalised, and turned as their first
    one is (DeepSeek-V4). It is there from the last of them on."""

    ratio: int
    overlaps: bool
    """A row is compressed from the `ratio` positions before its own too, of which there are projections for that."""
    selection: CompressedSelection | None = None
    """Of the rows that are there; None: all of them."""

    @property
    def span(self) -> int:
        """Positions that a row is compressed from."""
        return self.ratio * self.parts

    @property
    def parts(self) -> int:
        """How many projections of a position there are: one for its own row, and one for the next."""
        return 2 if self.overlaps else 1


@dataclass(frozen=True)
class Compressed:
    """Attention to the last `window` positions and to compressed rows, with a sink, in one softmax. All heads share one
    key, which is its value too (DeepSeek-V4).

    The last channels of queries and keys turn, in pairs of neighbours, and those of results turn back, so that what a
    key adds depends on its distance. Queries' heads are normalised without a weight. Results of `n_groups` groups of
    neighbouring heads go through a projection to `group_rank` channels each, and those through one to the layer's.
    """

    n_heads: int
    head_dim: int
    scale: float
    """Factor on q.k before the softmax."""
    rope: RopeSpec
    q_rank: int
    """Queries come out of a normalised projection of this width."""
    window: int
    n_groups: int
    group_rank: int
    norm_eps: float
    compression: Compression | None = None
    """None: the layer sees its window only."""
    keeps_all: bool = False
    """Whether positions before the window are kept: rows of a layer that guesses are computed when they are wanted."""
    state_bytes: ClassVar[int] = 0
    """What a sequence takes however long it is."""

    @property
    def kept_values(self) -> float:
        """Values that the cache holds of a position; an input, in float32, counts as four of one byte."""
        compressed = 0.0 if self.compression is None else sum(self.compressed_widths) / self.compression.ratio
        return self.head_dim + 4 * sum(map(self.input_width, self.compressed_widths)) + compressed

    @property
    def mask(self) -> Mask:
        """Of the positions themselves."""
        return Sliding(self.window)

    @property
    def cache(self) -> Paged:
        """What the layer keeps of positions: keys, and what is compressed until it is."""
        if self.keeps_all:
            return Paged(FULL)
        return Paged(Sliding(self.window if self.compression is None else max(self.window, self.compression.span)))

    @property
    def compressed_cache(self) -> Paged:
        """What it keeps of all of them: compressed rows, and those of its indexer."""
        assert self.compression is not None
        return Paged(FULL, self.compression.ratio)

    @property
    def caches(self) -> tuple[Kept, ...]:
        return (self.cache,) if self.compression is None else (self.cache, self.compressed_cache)

    def input_width(self, width: int) -> int:
        """What is kept of a position for compressed rows of so many channels: what is summed, and what weights it."""
        assert self.compression is not None
        return 2 * self.compression.parts * width

    @property
    def compressed_widths(self) -> tuple[int, ...]:
        """Channels of the layer's compressed rows, and of its indexer's."""
        if self.compression is None:
            return ()
        selection = self.compression.selection
        return (self.head_dim,) if selection is None else (self.head_dim, selection.head_dim)
