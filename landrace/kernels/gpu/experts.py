"""A mixture of experts: rows in the order of their experts, one grouped product for gates and ups, one for downs, and a
sum for each row.

All sizes are those of the rows, the choices and the experts, so that the host need not know who goes where.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from landrace.kernels.activation import SWIGLU, Activation
from landrace.kernels.gpu.gates import gated

_OUT = 64
"""Outputs of a tile: with fewer the compiler takes another matrix instruction."""


@dataclass(frozen=True)
class Projection:
    """One projection of every expert: weight [n_experts, out, in] and bias [n_experts, out] float32."""

    weight: Tensor
    bias: Tensor | None


@triton.jit(do_not_specialize=["n"])
def _order(experts, order, starts, counts, n, CHUNK: tl.constexpr):
    """Program e counts the choices of experts before e, and lists its own in order."""
    expert = tl.program_id(0)
    start = tl.zeros([], tl.int32)
    for first in range(0, n, CHUNK):
        at = first + tl.arange(0, CHUNK)
        before = tl.load(experts + at, mask=at < n, other=expert) < expert
        start += tl.sum(before.to(tl.int32), 0)
    count = tl.zeros([], tl.int32)
    for first in range(0, n, CHUNK):
        at = first + tl.arange(0, CHUNK)
        mine = (tl.load(experts + at, mask=at < n, other=-1) == expert).to(tl.int32)
        tl.store(order + start + count + tl.cumsum(mine, 0) - 1, at, mask=mine > 0)
        count += tl.sum(mine, 0)
    tl.store(starts + expert, start)
    tl.store(counts + expert, count)


@triton.jit(do_not_specialize=["tiles"])
def _grouped(
    x, w, beside, bias, bias_beside, worth, y, order, starts, counts, n_out, k, stride, tiles, limit, alpha,
    KIND: tl.constexpr, HAS_BIAS: tl.constexpr, WORTH_FIRST: tl.constexpr, WORTH_LAST: tl.constexpr,
    CHOICES: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """A tile of one expert's rows. A choice reads row choice // CHOICES of x."""
    GATED: tl.constexpr = KIND != "none"
    expert, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    count = tl.load(counts + expert)
    if tile * ROWS < count:
        r = tile * ROWS + tl.arange(0, ROWS)
        real = r < count
        choice = tl.load(order + tl.load(starts + expert) + r, mask=real, other=0).to(tl.int64)
        outs = tl.program_id(1) * OUT + tl.arange(0, OUT)
        real_out = outs < n_out
        w += expert.to(tl.int64) * n_out * k
        beside += expert.to(tl.int64) * n_out * k
        acc = tl.zeros([OUT, ROWS], tl.float32)
        other = tl.zeros([OUT if GATED else 1, ROWS if GATED else 1], tl.float32)
        source = (choice // CHOICES * stride)[None, :]
        if WORTH_FIRST:
            factor = tl.load(worth + choice, mask=real, other=0.0)[None, :]
        for at in range(0, k, STEP):
            columns = at + tl.arange(0, STEP)
            x_there, w_there = real[None, :], real_out[:, None]
            if not EVEN:
                x_there, w_there = x_there & (columns < k)[:, None], w_there & (columns < k)[None, :]
            part = tl.load(x + source + columns[:, None], mask=x_there, other=0.0)
            if WORTH_FIRST:
                part = (part * factor).to(x.dtype.element_ty)
            place = outs[:, None] * k + columns[None, :]
            acc = tl.dot(tl.load(w + place, mask=w_there, other=0.0), part, acc, input_precision="ieee")
            if GATED:
                beside_it = tl.load(beside + place, mask=w_there, other=0.0)
                other = tl.dot(beside_it, part, other, input_precision="ieee")
        if HAS_BIAS:
            acc += tl.load(bias + expert * n_out + outs, mask=real_out, other=0.0)[:, None]
            if GATED:
                other += tl.load(bias_beside + expert * n_out + outs, mask=real_out, other=0.0)[:, None]
        if GATED:
            acc = gated(acc, other, limit, alpha, KIND)
        if WORTH_LAST:
            acc *= tl.load(worth + choice, mask=real, other=0.0)[None, :]
        to = choice[None, :] * n_out + outs[:, None]
        tl.store(y + to, acc.to(y.dtype.element_ty), mask=real[None, :] & real_out[:, None])


@triton.jit
def _add_choices(into, y, out, factor, n, HAS_INTO: tl.constexpr, CHOICES: tl.constexpr, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    total = tl.zeros([SIZE], tl.float32)
    for choice in tl.static_range(CHOICES):
        total += tl.load(y + (row * CHOICES + choice) * n + at, mask=at < n, other=0.0)
    total *= factor
    if HAS_INTO:
        total += tl.load(into + row * n + at, mask=at < n, other=0.0)
    tl.store(out + row * n + at, total, mask=at < n)


def experts(
    into: Tensor | None,
    x: Tensor,
    chosen: Tensor,
    worth: Tensor,
    gate: Projection,
    up: Projection,
    down: Projection,
    *,
    activation: Activation = SWIGLU,
    weight_on_input: bool = False,
    factor: float = 1.0,
) -> Tensor:
    """into + factor * the sum over a row's experts e, in order of `chosen`, of worth * down_e(activation(gate_e(x),
    up_e(x))); float32 [T, d], as `into` is (None: 0).

    x [T, d]; chosen [T, top_k] int64, all of a row's different; worth [T, top_k] float32, which with `weight_on_input`
    multiplies x instead of the result.
    """
    (n_rows, d), (n_experts, hidden, _), top_k = x.shape, gate.weight.shape, chosen.shape[1]
    out = torch.empty(n_rows, d, dtype=torch.float32, device=x.device)
    if n_rows == 0:
        return out
    assert x.is_contiguous() and chosen.is_contiguous() and worth.is_contiguous()
    assert all(one.weight.is_contiguous() and one.weight.dtype == x.dtype for one in (gate, up, down))
    n = n_rows * top_k
    order = torch.empty(n, dtype=torch.int32, device=x.device)
    starts, counts = torch.empty(2, n_experts, dtype=torch.int32, device=x.device)
    _order[(n_experts,)](chosen, order, starts, counts, n, CHUNK=1024, num_warps=4)
    middle = torch.empty(n, hidden, dtype=x.dtype, device=x.device)
    results = torch.empty(n, d, dtype=torch.float32, device=x.device)
    wide = x.dtype == torch.float32
    step = 32 if wide else 64
    usual = n // n_experts  # rows of an expert
    rows = 16 if usual <= 16 else 64
    tiles = triton.cdiv(n_rows, rows)
    sizes = {"ROWS": rows, "OUT": _OUT, "STEP": step, "num_warps": 4, "num_stages": 2 if wide else 4}
    _grouped[(n_experts * tiles, triton.cdiv(hidden, _OUT))](
        x, gate.weight, up.weight, _bias(gate), _bias(up), worth, middle, order, starts, counts,
        hidden, d, x.stride(0), tiles, activation.limit, activation.alpha,
        KIND=activation.kind, HAS_BIAS=gate.bias is not None, WORTH_FIRST=weight_on_input, WORTH_LAST=False,
        CHOICES=top_k, EVEN=d % step == 0, **sizes,
    )  # fmt: skip
    _grouped[(n_experts * tiles, triton.cdiv(d, _OUT))](
        middle, down.weight, down.weight, _bias(down), _bias(down), worth, results, order, starts, counts,
        d, hidden, hidden, tiles, 0.0, 0.0,
        KIND="none", HAS_BIAS=down.bias is not None, WORTH_FIRST=False, WORTH_LAST=not weight_on_input,
        CHOICES=1, EVEN=hidden % step == 0, **sizes,
    )  # fmt: skip
    size = min(1024, triton.next_power_of_2(d))
    _add_choices[(n_rows, triton.cdiv(d, size))](
        out if into is None else into, results, out, factor, d, HAS_INTO=into is not None, CHOICES=top_k, SIZE=size
    )
    return out


def _bias(projection: Projection) -> Tensor:
    return projection.weight if projection.bias is None else projection.bias
