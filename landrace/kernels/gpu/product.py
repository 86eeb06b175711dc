"""Products of rows with matrices: y = x W^T + b, with what is done to the result.

Inputs are added in order within so many equal parts of them, and the parts in order. How many is the matrix's own: a
step of few rows then has a program for each part, and a step of many has one for all of them, and both give the same
bits. The product is transposed, W x^T, so that outputs fill the long side of a tile and one kind of matrix instruction
serves one row and thousands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from landrace.kernels.activation import SWIGLU, Activation
from landrace.kernels.gpu.gates import gated
from landrace.kernels.gpu.tickets import MOST, counters, is_last

_OUT = 64
"""Outputs of a tile at least: with fewer the compiler takes another matrix instruction."""
_PROGRAMS = 192
"""About so many keep a GPU's memory busy."""
_FEW = 96
"""With fewer, processors of a large GPU have nothing to do."""
_LEAST_PART = 256
"""Inputs of a part."""


@triton.jit
def _part(
    x, w, beside, rows, outs, n_rows, n_out, k, stride, first, end,
    GATED: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """The sum over the inputs from `first` to `end`: [OUT, ROWS], and the same of the matrix beside it."""
    acc = tl.zeros([OUT, ROWS], tl.float32)
    other = tl.zeros([OUT if GATED else 1, ROWS if GATED else 1], tl.float32)
    for at in range(first, end, STEP):
        columns = at + tl.arange(0, STEP)
        x_there, w_there = (rows < n_rows)[None, :], (outs < n_out)[:, None]
        if not EVEN:
            x_there, w_there = x_there & (columns < k)[:, None], w_there & (columns < k)[None, :]
        part = tl.load(x + rows[None, :] * stride + columns[:, None], mask=x_there, other=0.0)
        place = outs[:, None] * k + columns[None, :]
        acc = tl.dot(tl.load(w + place, mask=w_there, other=0.0), part, acc, input_precision="ieee")
        if GATED:
            other = tl.dot(tl.load(beside + place, mask=w_there, other=0.0), part, other, input_precision="ieee")
    return acc, other


@triton.jit(do_not_specialize=["n_rows"])
def _product(
    x, w, beside, bias, bias_beside, into, y, parts, tickets, n_rows, n_out, k, stride, factor, limit, alpha,
    KIND: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_INTO: tl.constexpr, PARTS: tl.constexpr, SHARED: tl.constexpr,
    EVEN: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One tile. SHARED: a program computes one part, and the last one adds them."""
    GATED: tl.constexpr = KIND != "none"
    row_tiles = tl.cdiv(n_rows, ROWS)
    tile = tl.program_id(0)
    # Neighbours share outputs: a matrix is read once, and rows come out of the second cache.
    first_row, first_out = tile % row_tiles * ROWS, tile // row_tiles * OUT
    x += first_row.to(tl.int64) * stride
    w += first_out.to(tl.int64) * k
    beside += first_out.to(tl.int64) * k
    rows, outs = tl.arange(0, ROWS), tl.arange(0, OUT)
    rows_left, outs_left = n_rows - first_row, n_out - first_out
    steps = tl.cdiv(k, STEP)
    acc = tl.zeros([OUT, ROWS], tl.float32)
    other = tl.zeros([OUT if GATED else 1, ROWS if GATED else 1], tl.float32)
    last = True
    if SHARED:
        own = tl.program_id(1)
        acc, other = _part(
            x, w, beside, rows, outs, rows_left, outs_left, k, stride,
            own * steps // PARTS * STEP, (own + 1) * steps // PARTS * STEP, GATED, EVEN, ROWS, OUT, STEP,
        )  # fmt: skip
        planes: tl.constexpr = 2 if GATED else 1
        place = rows[None, :] * OUT + outs[:, None]
        here = (rows < rows_left)[None, :]
        tiles = tl.num_programs(0).to(tl.int64)
        plane = parts + (own * tiles + tile) * planes * ROWS * OUT
        tl.store(plane + place, acc, mask=here)
        if GATED:
            tl.store(plane + ROWS * OUT + place, other, mask=here)
        last = is_last(tickets + tile, PARTS)
        if last:
            acc = tl.zeros([OUT, ROWS], tl.float32)
            other = tl.zeros([OUT if GATED else 1, ROWS if GATED else 1], tl.float32)
            for part in tl.static_range(PARTS):
                plane = parts + (part * tiles + tile) * planes * ROWS * OUT
                acc += tl.load(plane + place, mask=here, other=0.0, cache_modifier=".cg")
                if GATED:
                    other += tl.load(plane + ROWS * OUT + place, mask=here, other=0.0, cache_modifier=".cg")
    elif PARTS == 1:
        acc, other = _part(
            x, w, beside, rows, outs, rows_left, outs_left, k, stride, 0, k, GATED, EVEN, ROWS, OUT, STEP
        )
    else:
        for part in range(PARTS):
            one, two = _part(
                x, w, beside, rows, outs, rows_left, outs_left, k, stride,
                part * steps // PARTS * STEP, (part + 1) * steps // PARTS * STEP, GATED, EVEN, ROWS, OUT, STEP,
            )  # fmt: skip
            acc += one
            if GATED:
                other += two
    if last:
        columns = first_out + outs
        if HAS_BIAS:
            acc += tl.load(bias + columns, mask=columns < n_out, other=0.0)[:, None]
            if GATED:
                other += tl.load(bias_beside + columns, mask=columns < n_out, other=0.0)[:, None]
        if GATED:
            acc = gated(acc, other, limit, alpha, KIND)
        to = (first_row.to(tl.int64) + rows)[None, :] * n_out + columns[:, None]
        real = (rows < rows_left)[None, :] & (columns < n_out)[:, None]
        if HAS_INTO:
            acc = tl.fma(acc, factor, tl.load(into + to, mask=real, other=0.0))
        tl.store(y + to, acc.to(y.dtype.element_ty), mask=real)


@dataclass(frozen=True)
class _Schedule:
    """How a product is dealt out. It changes no bit of the result."""

    rows: int
    out: int
    shared: bool
    warps: int
    stages: int


def parts_of(n_out: int, k: int) -> int:
    """In how many parts the inputs of a matrix are added."""
    parts = 1
    while parts < 8 and triton.cdiv(n_out, _OUT) * parts < _PROGRAMS and k >= 2 * parts * _LEAST_PART:
        parts *= 2
    return parts


def _schedule(n_rows: int, n_out: int, parts: int, two: bool, wide: bool) -> _Schedule:
    """`two`: of two matrices at once. `wide`: in float32."""

    def tiles(rows: int, out: int) -> int:
        return triton.cdiv(n_rows, rows) * triton.cdiv(n_out, out)

    rows = 16 if n_rows <= 16 else 64 if n_rows <= 64 or wide or tiles(128, _OUT) < _FEW else 128
    fits = not two or parts == 1  # in registers
    out = 2 * _OUT if rows == 128 and fits and tiles(rows, 2 * _OUT) >= _FEW else _OUT
    shared = parts > 1 and tiles(rows, out) < _FEW
    if wide:
        return _Schedule(rows, out, shared, 8 if rows == 64 else 4, 2)
    return _Schedule(rows, out, shared, 8 if rows == 128 else 4, 4 if rows == 128 or two else 6)


def product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    beside: tuple[Tensor, Tensor | None] | None = None,
    activation: Activation = SWIGLU,
    into: Tensor | None = None,
    factor: float = 1.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """x W^T + b, [T, out] in `dtype` (None: x's).

    x [T, in], weight [out, in], which is read in x's dtype, bias [out] float32. beside: another matrix and bias of the
    same shapes; the result is then activation(x W^T + b, x V^T + c). into: float32 [T, out]; the result is then into +
    factor * it, in float32.
    """
    (n_rows, k), n_out, weight = x.shape, weight.shape[0], weight.to(x.dtype)
    y = torch.empty(n_rows, n_out, dtype=torch.float32 if into is not None else dtype or x.dtype, device=x.device)
    if n_rows == 0:
        return y
    assert x.stride(1) == 1 and weight.is_contiguous()
    parts, wide = parts_of(n_out, k), x.dtype == torch.float32
    plan = _schedule(n_rows, n_out, parts, beside is not None, wide)
    step = 32 if wide else 64
    tiles = triton.cdiv(n_rows, plan.rows) * triton.cdiv(n_out, plan.out)
    assert not plan.shared or tiles <= MOST
    planes = 1 if beside is None else 2
    kept = y
    if plan.shared:
        kept = torch.empty(parts * tiles * planes * plan.rows * plan.out, dtype=torch.float32, device=x.device)
    other, other_bias = (weight, bias) if beside is None else (beside[0].to(x.dtype), beside[1])
    _product[(tiles, parts if plan.shared else 1)](
        x, weight, other, _or(bias, y), _or(other_bias, y), _or(into, y), y, kept, counters(x.device),
        n_rows, n_out, k, x.stride(0), factor, activation.limit, activation.alpha,
        KIND="none" if beside is None else activation.kind, HAS_BIAS=bias is not None, HAS_INTO=into is not None,
        PARTS=parts, SHARED=plan.shared, EVEN=k % step == 0, ROWS=plan.rows, OUT=plan.out, STEP=step,
        num_warps=plan.warps, num_stages=plan.stages,
    )  # fmt: skip
    return y


def _or(tensor: Tensor | None, unused: Tensor) -> Tensor:
    return unused if tensor is None else tensor
