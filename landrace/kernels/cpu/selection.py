"""Sparse selection in a program: an indexer chooses which positions attention goes over."""

from __future__ import annotations

from landrace.kernels.cpu.cache import Heads, IndexKeys
from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.weights import PackedVector
from landrace.kernels.key_means import MEAN_OF


def select(
    program: Program,
    layer: int,
    keys: IndexKeys,
    *,
    n_heads: int,
    most: int,
    q: int,
    k: int,
    weights: int,
    norm: PackedVector,
    norm_bias: PackedVector,
    eps: float,
    rotary: int | None,
    rotary_half: int = 0,
    scale: float = 1.0,
    group: int = 0,
) -> None:
    """Chooses, for each row that sees more than `most` positions, the `most` of them with the greatest sum of scale *
    weight * relu(q.k) over the indexer's heads; of equal ones the earlier.

    q [n_heads * head_dim], k [head_dim], weights [n_heads]. k is first normalised (LayerNorm) and turned, as q's heads
    are, and written to the cache of the indexer, which counts as a layer. Overwrites q and weights.
    """
    program.add_writer(
        "select", layer, keys, channels=keys.head_dim, rotary=rotary, rotary_half=rotary_half, group=group,
        n_heads=n_heads, most=most, q=q, k=k, weights=weights, norm=norm, norm_bias=norm_bias, eps=eps, scale=scale,
    )  # fmt: skip


def select_blocks(
    program: Program,
    layer: int,
    keys: IndexKeys,
    *,
    n_heads: int,
    block: int,
    n_blocks: int,
    n_local: int,
    q: int,
    k: int,
    q_norm: PackedVector,
    k_norm: PackedVector,
    eps: float,
    rotary: int | None,
    rotary_half: int = 0,
    group: int = 0,
) -> None:
    """Chooses, for each row that sees more than `n_blocks` blocks of `block` positions and for each of `n_heads` apart,
    the row's own block, the n_local - 1 before it, and those with the greatest q.k; of equal ones the earlier.

    q [n_heads * head_dim] and k [head_dim]: heads are first normalised and turned, and k is written to the cache of the
    indexer, which counts as a layer. Overwrites q.
    """
    program.add_writer(
        "select_blocks", layer, keys, channels=keys.head_dim, rotary=rotary, rotary_half=rotary_half, group=group,
        n_heads=n_heads, block=block, n_blocks=n_blocks, n_local=n_local, q=q, k=k, q_norm=q_norm, k_norm=k_norm,
        eps=eps,
    )  # fmt: skip


def select_by_means(
    program: Program,
    layer: int,
    keys: int,
    heads: Heads,
    *,
    block: int,
    n_blocks: int,
    n_first: int,
    n_local: int,
    onset: int,
    q: int,
    group: int = 0,
) -> None:
    """Chooses, for each row from the position `onset` on and each head of keys apart, `n_blocks` blocks of `block`
    positions by the means of the keys in the cache of the layer `keys` (`kernels.reference.key_means`),
    and writes those means to a cache that counts as a layer: of every sixteen positions one, each position a share of
    it. q [n_heads * head_dim]: as `Program.rope` leaves them.
    """
    program.add(
        "select_by_means", layer=layer, keys=keys, **vars(heads), block=block, n_blocks=n_blocks, n_first=n_first,
        n_local=n_local, onset=onset, q=q, group=group,
    )  # fmt: skip
    program.keep_layer(IndexKeys(heads.n_kv_heads * heads.head_dim // MEAN_OF), group)


def select_pools(
    program: Program,
    layer: int,
    keys: IndexKeys,
    *,
    n_heads: int,
    pool: int,
    n_pools: int,
    q: int,
    k: int,
    norm: PackedVector,
    eps: float,
    weights: int | None = None,
    gates: int | None = None,
    gate_bias: PackedVector | None = None,
    norm_bias: PackedVector | None = None,
    q_norm: PackedVector | None = None,
    rotary: int | None = None,
    rotary_half: int = 0,
    scale: float = 1.0,
    group: int = 0,
) -> None:
    """Chooses, for each row that sees more than `n_pools` whole pools of `pool` positions and those behind them, the
    pools with the greatest sum of scale * weight * relu(q.key) over the indexer's heads; of equal ones the earlier.

    q [n_heads * head_dim], k [head_dim], weights [n_heads] or none. A pool's key is the mean of its positions' k,
    normalised and turned as the first one's, where there are no gates; with gates [head_dim] it is, channel by channel,
    their mean weighted by softmax(gates + gate_bias), gate_bias [pool * head_dim], and each k is normalised (LayerNorm)
    before. q's heads are normalised by q_norm, if there is one, and turned. What is kept is written to the cache of the
    indexer, which counts as a layer. Overwrites q and weights.
    """
    program.add_writer(
        "select_pools", layer, keys, channels=keys.head_dim, rotary=rotary, rotary_half=rotary_half, group=group,
        n_heads=n_heads, pool=pool, n_pools=n_pools, q=q, k=k, weights=weights, gates=gates, gate_bias=gate_bias,
        q_norm=q_norm, norm=norm, norm_bias=norm_bias, eps=eps, scale=scale,
    )  # fmt: skip
