"""Attention over a paged cache that is read where it lies: single rows, chunks and whole prompts in one kernel.

Positions are cut from 0 on, into tiles and spans of `SPAN`: a row adds the tiles of a span in order, and then
its spans in order. A tile of which it sees nothing changes no bit of its sum, so neither the rows beside it nor where a
chunk begins do. A step of few rows has a program for each span, any other step one that goes over all of them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from landrace.kernels.gpu.paged import SPAN, HeadSizes, PagedPlan
from landrace.kernels.gpu.tickets import MOST, counters, is_last
from landrace.kernels.mask import Chunked, Mask, Sliding

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _join(m, total, acc, m_part, total_part, acc_part):
    """Adds one part of a softmax-weighted sum (greatest score, sum of weights, weighted values) to another. Written as
    multiply-adds, since a compiler may fuse either product. An empty part changes no bit."""
    greatest = tl.maximum(m, m_part)
    safe = tl.where(greatest == float("-inf"), 0.0, greatest)
    old, new = tl.exp2(m - safe), tl.exp2(m_part - safe)
    return greatest, tl.fma(total, old, total_part * new), tl.fma(acc, old[:, None], acc_part * new[:, None])


@triton.jit
def _span(
    query, keys, values, slots, position, real, first, oldest, end, span, head, scale,
    MASK: tl.constexpr, REACH: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, SPAN_: tl.constexpr,
):  # fmt: skip
    """What a tile of rows adds up over one span. `first`: the position of the first slot; `oldest` and `end`: the
    positions that any of the rows sees."""
    d = tl.arange(0, SIZE)
    m = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, SIZE], tl.float32)
    # The bounds lie outside: a condition in the loop keeps the compiler from loading ahead.
    begin = tl.maximum(oldest - span * SPAN_, 0) // TILE
    stop = tl.cdiv(tl.minimum(end - span * SPAN_, SPAN_), TILE)
    for tile in range(begin, stop):
        at = span * SPAN_ + tile * TILE + tl.arange(0, TILE)
        there = (at >= first) & (at < end)
        slot = tl.load(slots + (at - first), mask=there, other=0)
        place = ((slot * KV_HEADS + head) * D)[:, None] + d[None, :]
        loaded = there[:, None] if SIZE == D else there[:, None] & (d < D)[None, :]
        k = tl.load(keys + place, mask=loaded, other=0.0).to(query.dtype)
        v = tl.load(values + place, mask=loaded, other=0.0).to(query.dtype)
        scores = tl.dot(query, tl.trans(k), input_precision="ieee") * scale
        seen = (at[None, :] <= position[:, None]) & there[None, :] & real[:, None]
        if MASK == "sliding":
            seen = seen & (at[None, :] > position[:, None] - REACH)
        if MASK == "chunked":
            seen = seen & (at[None, :] >= (position // REACH * REACH)[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        greatest = tl.maximum(m, tl.max(scores, 1))
        safe = tl.where(greatest == float("-inf"), 0.0, greatest)
        weights = tl.exp2(scores - safe[:, None])
        shrink = tl.exp2(m - safe)
        total = tl.fma(total, shrink, tl.sum(weights, 1))
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        m = greatest
    return m, total, acc


@triton.jit
def _attend(
    q, keys, values, out, part_m, part_total, part_acc, tickets, sinks, tiles, scale, n_spans, part_rows,
    MASK: tl.constexpr, REACH: tl.constexpr, HAS_SINKS: tl.constexpr, SHARED: tl.constexpr, SHARING: tl.constexpr,
    KV_HEADS: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
    SPAN_: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """A tile of rows for the heads that share one head of keys: row r is token r // SHARING, head r % SHARING."""
    tile, head = tl.program_id(0), tl.program_id(1)
    slots = tl.load(tiles + 5 * tile).to(tl.pointer_type(tl.int64))
    first, row = tl.load(tiles + 5 * tile + 1).to(tl.int32), tl.load(tiles + 5 * tile + 2)
    first_position = tl.load(tiles + 5 * tile + 3).to(tl.int32)
    n_rows = tl.load(tiles + 5 * tile + 4).to(tl.int32)
    r, d = tl.arange(0, ROWS), tl.arange(0, SIZE)
    real = r // SHARING < n_rows
    position = first_position + r // SHARING
    place = ((row + r // SHARING) * KV_HEADS + head) * SHARING * D + r % SHARING * D
    place = place[:, None] + d[None, :]
    there = real[:, None] & (d < D)[None, :]
    query = tl.load(q + place, mask=there, other=0.0)
    end = first_position + n_rows
    oldest = first
    if MASK == "sliding":
        oldest = tl.maximum(first, first_position - REACH + 1)
    if MASK == "chunked":
        oldest = tl.maximum(first, first_position // REACH * REACH)
    first_span = oldest // SPAN_
    seen = tl.where(n_rows > 0, tl.cdiv(end, SPAN_) - first_span, 0)
    m = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, SIZE], tl.float32)
    last = True
    if SHARED:
        own = tl.program_id(2)
        last = own < seen
        if last:
            m, total, acc = _span(
                query, keys, values, slots, position, real, first, oldest, end, first_span + own, head, scale,
                MASK, REACH, KV_HEADS, D, SIZE, ROWS, TILE, SPAN_,
            )  # fmt: skip
            parts = (tile.to(tl.int64) * KV_HEADS + head) * n_spans * part_rows + r
            here = parts + own * part_rows
            tl.store(part_m + here, m, mask=real)
            tl.store(part_total + here, total, mask=real)
            tl.store(part_acc + here[:, None] * D + d[None, :], acc, mask=there)
            last = is_last(tickets + tile * KV_HEADS + head, seen)
            if last:
                m = tl.full([ROWS], float("-inf"), tl.float32)
                total = tl.zeros([ROWS], tl.float32)
                acc = tl.zeros([ROWS, SIZE], tl.float32)
                for some in range(0, seen, AHEAD):
                    for i in tl.static_range(AHEAD):  # loaded together: each takes long to come
                        one = parts + (some + i) * part_rows
                        ours = real & (some + i < seen)
                        m, total, acc = _join(
                            m, total, acc,
                            tl.load(part_m + one, mask=ours, other=float("-inf"), cache_modifier=".cg"),
                            tl.load(part_total + one, mask=ours, other=0.0, cache_modifier=".cg"),
                            tl.load(
                                part_acc + one[:, None] * D + d[None, :], mask=ours[:, None] & (d < D)[None, :],
                                other=0.0, cache_modifier=".cg",
                            ),
                        )  # fmt: skip
    else:
        for span in range(first_span, first_span + seen):
            m_part, total_part, acc_part = _span(
                query, keys, values, slots, position, real, first, oldest, end, span, head, scale,
                MASK, REACH, KV_HEADS, D, SIZE, ROWS, TILE, SPAN_,
            )  # fmt: skip
            m, total, acc = _join(m, total, acc, m_part, total_part, acc_part)
    if last:
        if HAS_SINKS:
            sink = tl.load(sinks + head * SHARING + r % SHARING) * _LOG2E
            one, nothing = tl.full([ROWS], 1.0, tl.float32), tl.zeros([ROWS, SIZE], tl.float32)
            m, total, acc = _join(m, total, acc, sink, one, nothing)
        acc = acc / tl.where(total > 0, total, 1.0)[:, None]
        tl.store(out + place, acc.to(out.dtype.element_ty), mask=there)


def attention(
    q: Tensor, keys: Tensor, values: Tensor, plan: PagedPlan, *, scale: float, mask: Mask, sinks: Tensor | None = None
) -> Tensor:
    """softmax(scale * q.k) v over the positions that `mask` shows, [T, heads, head_dim].

    q [T, heads, head_dim]; keys and values [n_slots, kv_heads, head_dim], the step's rows already written. sinks
    [heads] float32: a score of each head that takes part in the softmax and has no value.
    """
    _, heads, d = q.shape
    kv_heads = keys.shape[1]
    n_tiles, size = plan.tiles.shape[0], max(16, triton.next_power_of_2(d))
    sizes = HeadSizes(heads // kv_heads, d, q.dtype)
    sharing, rows = sizes.sharing, sizes.rows(plan.most_rows)
    shared = plan.n_spans > 1 and plan.most_rows * sharing <= rows
    assert q.is_contiguous() and keys.is_contiguous() and values.is_contiguous()
    assert not shared or n_tiles * kv_heads <= MOST
    out = torch.empty_like(q)
    parts = (n_tiles, kv_heads, plan.n_spans if shared else 0, plan.most_rows * sharing)
    m, total = torch.empty(2, *parts, dtype=torch.float32, device=q.device)
    acc = torch.empty(*parts, d, dtype=torch.float32, device=q.device)
    stages = 3 if q.dtype != torch.float32 else 2
    stages -= size > 128  # what fits
    kind, reach = "full", 1
    if isinstance(mask, Sliding):
        kind, reach = "sliding", mask.window
    elif isinstance(mask, Chunked):
        kind, reach = "chunked", mask.chunk
    _attend[(n_tiles, kv_heads, plan.n_spans if shared else 1)](
        q, keys, values, out, m, total, acc, counters(q.device), out if sinks is None else sinks,
        plan.tiles, scale * _LOG2E.value, plan.n_spans, plan.most_rows * sharing,
        MASK=kind, REACH=reach, HAS_SINKS=sinks is not None, SHARED=shared, SHARING=sharing,
        KV_HEADS=kv_heads, D=d, SIZE=size, ROWS=rows, TILE=sizes.tile, SPAN_=SPAN, AHEAD=4,
        num_warps=8 if rows > 64 or size > 128 else 4, num_stages=stages,
    )  # fmt: skip
    return out
