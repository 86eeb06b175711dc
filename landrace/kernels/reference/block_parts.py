"""What readers of block formats share."""

from __future__ import annotations

import torch
from torch import Tensor


def half(packed: Tensor, at: int) -> Tensor:
    """The float16 at byte `at` of every block, as float32 [n, 1]."""
    return packed[:, at : at + 2].contiguous().view(torch.float16).float()


def fields(packed: Tensor, bits: int) -> Tensor:
    """The numbers of `bits` bits in every byte, from the lowest on, int32 on a new last axis."""
    return packed.int()[..., None] >> torch.arange(0, 8, bits, device=packed.device) & (1 << bits) - 1


def words(packed: Tensor, first: int, end: int, dtype: torch.dtype) -> Tensor:
    """Bytes [first, end) of every block as little-endian integers, int64 without sign."""
    whole = packed[:, first:end].contiguous().view(dtype).long()
    return whole & (1 << 8 * dtype.itemsize) - 1
