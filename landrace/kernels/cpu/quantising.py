"""Quantisation of weights in C++: the reference's bits, sooner."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from landrace.kernels.cpu.weights import as_rows
from landrace.kernels.reference.blocks import BLOCKS
from landrace.kernels.reference.quantising import check, too_large


def quantize_weights(native: ModuleType, pool: Any, isa: str, values: Tensor, block_type: str) -> Tensor:
    """float32, float16 or bfloat16 [rows, columns] to uint8 [rows, bytes per row], with all threads of `pool`.

    The same bits as the reference `quantize_weights`, for any pool and instruction set, and the same errors; ValueError
    also for other types of `values` and for values outside main memory.
    """
    check(values, block_type)
    if not values.is_cpu:
        raise ValueError(f"Values on {values.device} are not in main memory.")
    stored, source = as_rows(values)
    block = BLOCKS[block_type]
    n_blocks = values.numel() // block.elements
    out = torch.empty(values.shape[0], values.shape[1] // block.elements * block.bytes, dtype=torch.uint8)
    if not native.quantise_weights(pool, isa, source, block_type, stored.data_ptr(), n_blocks, out.data_ptr()):
        raise ValueError(f"It holds NaN, infinity or a value of {too_large(block_type):.0f} or more.")
    return out
