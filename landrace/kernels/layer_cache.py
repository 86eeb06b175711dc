"""`LayerCache`: one layer's keys and values, in the layout of the kernels that write and read them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerCache:
    """The reference kernels keep keys and values as [n_slots, n_kv_heads, head_dim]; for the C++ kernels see
    `kernels.cpu.cache.new_layer_cache`."""

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    """int8 only: what the stored numbers are multiplied by."""
    value_scales: Tensor | None = None

    @property
    def nbytes(self) -> int:
        tensors = (self.keys, self.values, self.key_scales, self.value_scales)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def untouched_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros in main memory that take no memory until they are written: a cache is made for many tokens and often
    holds few. (torch.zeros writes them.)"""
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes == 0:
        return torch.zeros(shape, dtype=dtype)
    return torch.from_numpy(np.zeros(n_bytes, dtype=np.uint8)).view(dtype).view(shape)
