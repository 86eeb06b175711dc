"""Which positions a row of attention goes over where it does not go over all, as frozen facts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from landrace.kernels.mask import FULL, Chunked
from landrace.models.cache_spec import Paged


@dataclass(frozen=True)
class BlockSelection:
    """Which blocks of `block` positions a row attends to, for each head of keys apart: the `top_k` with the greatest
    q.k of an indexer's head, of equal ones the earlier (MiniMax-M3). Where it sees no more blocks, all of them.

    The indexer has a query for each head of the layer's keys, and one key for all. Both are normalised and turn as the
    layer's do.
    """

    head_dim: int
    block: int
    top_k: int
    n_local: int = 1
    """Blocks that are among them in any case: the row's own and the nearest before it."""

    @property
    def most(self) -> int:
        """Positions that a row attends to at most."""
        return self.block * self.top_k

    @property
    def onset(self) -> int:
        """The position of the first row that must choose."""
        return self.most


@dataclass(frozen=True)
class MeanSelection:
    """Which blocks of `block` positions a row attends to, for each head of keys apart, by the layer's own keys: `top_k`
    blocks with the greatest weights, of equal ones the earlier (InfLLM-v2; Zhao et al., 2025). A row that sees fewer
    than `dense_length` positions, its own among them, attends to all, as one does that sees no more blocks.

    A window is 32 keys, and the next begins 16 on; a coarse one is 128, and the next begins 64 on. Only those count
    whose last key the row sees. A window's weight is exp of the layer's scaled product of the query and the keys' mean,
    divided by the sum of exp over coarse windows, summed over the heads that share keys; a block's is that of the
    heaviest window that reaches into it.
    """

    block: int
    top_k: int
    """Blocks in all, with those that are chosen in any case."""
    n_first: int
    """Blocks of the sequence's beginning that are among them in any case."""
    n_local: int
    """Of the row's own and the nearest before it."""
    dense_length: int

    @property
    def most(self) -> int:
        """Positions that a row attends to at most."""
        return self.block * self.top_k

    @property
    def onset(self) -> int:
        """The position of the first row that must choose."""
        return max(self.most, self.dense_length - 1)


def pool_caches(pool: int) -> tuple[Paged, Paged]:
    """What is kept of positions until their pool of so many is whole, and what of pools."""
    return Paged(Chunked(pool)), Paged(FULL, pool)


@dataclass(frozen=True)
class PoolSelection:
    """Which pools of `pool` positions, on a grid from position 0, a row attends to, the same for all heads: the
    `top_k` whole ones that an indexer scores highest, of equal ones the earlier, and what it sees behind them
    (Qwen4-Exp). Where it sees no more whole pools, all of them.

    A score is the sum over the indexer's heads of relu(q.key). A pool's key is the mean of its positions' keys,
    normalised and turned as the first position's.
    """

    n_heads: int
    head_dim: int
    pool: int
    top_k: int

    @property
    def most(self) -> int:
        """Positions that a row attends to at most."""
        return self.pool * (self.top_k + 1) - 1

    @property
    def onset(self) -> int:
        """The position of the first row that must choose."""
        return self.most

    @property
    def scale(self) -> float:
        """Factor on the scores. It keeps their order, but for what is rounded."""
        return 1 / math.sqrt(self.head_dim)


@dataclass(frozen=True)
class Selection:
    """Which positions a row attends to: the `top_k` that an indexer scores highest, of equal ones the earlier (DSA,
    DeepSeek-V3.2). Where it sees no more than `top_k`, all of them.

    A score is the sum over the indexer's heads of weight * relu(q.k), with a query and a weight of each head and one
    key for all. Of queries and keys the first channels turn, as the layer's turning ones do.

    With a `pool`, whole pools of so many positions on a grid from position 0 are chosen, `top_k` positions together,
    and what the row sees behind them (GLM-5.3). A pool's key is channel by channel a mean of its positions' keys,
    weighted by the softmax of gates, which each position brings, plus a bias for each place. Nothing turns.
    """

    n_heads: int
    head_dim: int
    top_k: int
    own: bool = True
    """False: the layer has no indexer, and attends to what the nearest one before it has chosen (GLM-5)."""
    norm_eps: float = 1e-6
    """Of the LayerNorm of keys."""
    pool: int = 1

    @property
    def most(self) -> int:
        """Positions that a row attends to at most."""
        return self.top_k + self.pool - 1

    @property
    def onset(self) -> int:
        """The position of the first row that must choose."""
        return self.most

    @property
    def scale(self) -> float:
        """Factor on the scores. It keeps their order, but for what is rounded."""
        return 1 / math.sqrt(self.n_heads * self.head_dim)
