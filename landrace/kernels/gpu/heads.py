"""Heads of queries, keys and values: normalised, rotated, written to the cache, in one pass over them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TOGETHER = 8
"""Heads of a program."""


@triton.jit
def _turn_and_keep(
    q, k, v, q_out, keys, values, slots, cos, sin, q_weight, k_weight, eps, q_stride, k_stride, v_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr, HALF: tl.constexpr,
    NORM: tl.constexpr, WEIGHTED: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """A row's next heads: of q, then of k, then of v."""
    row = tl.program_id(0).to(tl.int64)
    Q_PROGRAMS: tl.constexpr = (HEADS + TOGETHER - 1) // TOGETHER
    KV_PROGRAMS: tl.constexpr = (KV_HEADS + TOGETHER - 1) // TOGETHER
    program = tl.program_id(1)
    c = tl.arange(0, SIZE)
    if program >= Q_PROGRAMS + KV_PROGRAMS:
        heads = (program - Q_PROGRAMS - KV_PROGRAMS) * TOGETHER + tl.arange(0, TOGETHER)
        there = (heads < KV_HEADS)[:, None] & (c < D)[None, :]
        place = heads[:, None] * D + c[None, :]
        given = tl.load(v + row * v_stride + place, mask=there, other=0.0)
        to = values + tl.load(slots + row) * KV_HEADS * D + place
        tl.store(to, given.to(values.dtype.element_ty), mask=there)
    elif program >= Q_PROGRAMS:
        heads = (program - Q_PROGRAMS) * TOGETHER + tl.arange(0, TOGETHER)
        there = (heads < KV_HEADS)[:, None] & (c < D)[None, :]
        x = _turned(k + row * k_stride, k_weight, cos, sin, eps, row, heads, there, D, SIZE, HALF, NORM, WEIGHTED)
        to = keys + tl.load(slots + row) * KV_HEADS * D + heads[:, None] * D + c[None, :]
        # As the reference rounds: to the products' type, then to the cache's.
        tl.store(to, x.to(k.dtype.element_ty).to(keys.dtype.element_ty), mask=there)
    else:
        heads = program * TOGETHER + tl.arange(0, TOGETHER)
        there = (heads < HEADS)[:, None] & (c < D)[None, :]
        x = _turned(q + row * q_stride, q_weight, cos, sin, eps, row, heads, there, D, SIZE, HALF, NORM, WEIGHTED)
        to = q_out + (row * HEADS + heads[:, None]) * D + c[None, :]
        tl.store(to, x.to(q_out.dtype.element_ty), mask=there)


@triton.jit
def _turned(
    x, weight, cos, sin, eps, row, heads, there,
    D: tl.constexpr, SIZE: tl.constexpr, HALF: tl.constexpr, NORM: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Heads of one row, normalised and rotated, [heads, SIZE] float32."""
    c = tl.arange(0, SIZE)
    # The channel that each turns with; those behind the turning ones stay.
    partner = tl.where(c < HALF, c + HALF, tl.where(c < 2 * HALF, c - HALF, c))
    own = tl.load(x + heads[:, None] * D + c[None, :], mask=there, other=0.0).to(tl.float32)
    if HALF > 0:
        other = tl.load(x + heads[:, None] * D + partner[None, :], mask=there, other=0.0).to(tl.float32)
    if NORM:
        shrink = tl.rsqrt(tl.sum(own * own, 1) / D + eps)[:, None]
        own *= shrink
        if WEIGHTED:
            own *= tl.load(weight + c, mask=c < D, other=0.0)[None, :]
        if HALF > 0:
            other *= shrink
            if WEIGHTED:
                other *= tl.load(weight + partner, mask=c < D, other=0.0)[None, :]
    if HALF > 0:
        angle = row * HALF + tl.where(c < HALF, c, c - HALF)
        cosine = tl.load(cos + angle, mask=c < 2 * HALF, other=1.0)
        sine = tl.load(sin + angle, mask=c < 2 * HALF, other=0.0)
        own = tl.fma(own, cosine[None, :], other * tl.where(c < HALF, -sine, sine)[None, :])
    return own


def turn_and_keep(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    tables: tuple[Tensor, Tensor] | None,
    *,
    normed: bool,
    weights: tuple[Tensor, Tensor] | None,
    eps: float,
) -> Tensor:
    """Writes k and v to their slots; returns q, [T, heads, head_dim].

    q [T, heads * head_dim], k and v [T, kv_heads * head_dim], whose rows may lie apart; keys and values [n_slots,
    kv_heads, head_dim]; slots [T] int64. tables: cos and sin [T, rotary_dim / 2] (see `rotate`); None: nothing turns.
    normed: each head of q and k is divided by its root mean square first, and multiplied by `weights` [head_dim].
    """
    _, kv_heads, d = keys.shape
    n_rows, heads = q.shape[0], q.shape[1] // d
    out = torch.empty(n_rows, heads, d, dtype=q.dtype, device=q.device)
    if n_rows == 0:
        return out
    assert q.stride(1) == k.stride(1) == v.stride(1) == 1
    cos, sin = (out, out) if tables is None else tables
    q_weight, k_weight = (out, out) if weights is None else weights
    programs = triton.cdiv(heads, _TOGETHER) + 2 * triton.cdiv(kv_heads, _TOGETHER)
    _turn_and_keep[(n_rows, programs)](
        q, k, v, out, keys, values, slots, cos, sin, q_weight, k_weight, eps, q.stride(0), k.stride(0), v.stride(0),
        HEADS=heads, KV_HEADS=kv_heads, D=d, SIZE=triton.next_power_of_2(d),
        HALF=0 if tables is None else cos.shape[1], NORM=normed, WEIGHTED=weights is not None, TOGETHER=_TOGETHER,
        num_warps=4,
    )  # fmt: skip
    return out
