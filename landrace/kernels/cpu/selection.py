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


def keep_pool_inputs(
    program: Program,
    layer: int,
    shape: IndexKeys,
    k: int,
    *,
    gates: int | None = None,
    norm: PackedVector | None = None,
    norm_bias: PackedVector | None = None,
    eps: float = 0.0,
    group: int = 0,
) -> None:
    """Writes what keys of pools are made of to a cache that counts as a layer: k [head_dim], normalised (LayerNorm)
    where there is a norm, and gates, as many as k has channels, where there are any."""
    program.add_writer(
        "keep_pool_inputs", layer, shape, channels=0, rotary=None, rotary_half=0, group=group, k=k, gates=gates,
        norm=norm, norm_bias=norm_bias, eps=eps,
    )  # fmt: skip


def pool_keys(
    program: Program,
    layer: int,
    keys: IndexKeys,
    *,
    inputs: int,
    pool: int,
    gate_bias: PackedVector | None = None,
    norm: PackedVector | None = None,
    eps: float = 0.0,
    rotary: int | None = None,
    rotary_half: int = 0,
    group: int = 0,
) -> None:
    """Writes a key for every `pool` positions to a cache that counts as a layer, once the last of them is there, out of
    what the layer `inputs` keeps of them.

    It is their k's mean, normalised and turned as the first one's, where there are no gates; with gates it is, channel
    by channel, their mean weighted by softmax(gates + gate_bias), gate_bias [pool * head_dim].
    """
    program.add_writer(
        "pool_keys", layer, keys, channels=keys.head_dim, rotary=rotary, rotary_half=rotary_half, group=group,
        inputs=inputs, pool=pool, gate_bias=gate_bias, norm=norm, eps=eps,
    )  # fmt: skip


def select_pools(
    program: Program,
    layer: int,
    keys: IndexKeys,
    *,
    n_heads: int,
    pool: int,
    n_pools: int,
    q: int,
    weights: int | None = None,
    norm: PackedVector | None = None,
    eps: float = 0.0,
    rotary: int | None = None,
    rotary_half: int = 0,
    scale: float = 1.0,
) -> None:
    """Chooses, for each row that sees more than `n_pools` whole pools of `pool` positions and those behind them, the
    pools with the greatest sum of scale * weight * relu(q.key) over the indexer's heads; of equal ones the earlier.

    q [n_heads * head_dim], weights [n_heads] or none. Keys are those of `pool_keys`. q's heads are normalised, where
    there is a norm, and turned. Overwrites q and weights.
    """
    turning = {"rotary": rotary, "rotary_half": rotary_half or None}
    program.add_turning(
        "select", keys.head_dim, turning, layer=layer, **vars(keys), n_heads=n_heads, most=n_pools, q=q,
        weights=weights, q_norm=norm, eps=eps, scale=scale, every=pool, positions=True,
    )  # fmt: skip
