"""RMS norm of the residual stream (Zhang and Sennrich, 2019)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _norm(x, weight, y, eps, n, stride, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, SIZE)
    there = at < n
    value = tl.load(x + row * stride + at, mask=there, other=0.0).to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, 0) / n + eps)
    value *= tl.load(weight + at, mask=there, other=0.0)
    tl.store(y + row * n + at, value.to(y.dtype.element_ty), mask=there)


def norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight of each row of x [T, n], from float32 to `dtype`. weight [n] float32."""
    n_rows, n = x.shape
    y = torch.empty(n_rows, n, dtype=dtype, device=x.device)
    if n_rows:
        assert x.stride(1) == 1
        size = triton.next_power_of_2(n)
        _norm[(n_rows,)](x, weight, y, eps, n, x.stride(0), SIZE=size, num_warps=min(16, max(1, size // 512)))
    return y
