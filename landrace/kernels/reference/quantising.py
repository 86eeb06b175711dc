"""Float weights to blocks of 32 with a scale while a model is loaded: Q8_0 by ggml's rounding, Q4_0 with the scale that
loses least (`block_encoders`).

The C++ kernels compute the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from landrace.kernels.reference.block_encoders import pack_q4_0
from landrace.kernels.reference.blocks import quantize

CODES = {"Q8_0": 127, "Q4_0": 8}
"""The types that weights are quantised to, and the integer that ggml takes a block's greatest magnitude to."""
_BLOCK = 32
_TOO_LARGE = 65520.0
"""What rounds to infinity in float16."""
_BLOCKS_AT_A_TIME = 1 << 13
"""The temporaries stay in the processor's cache, and memory is bounded."""


def quantize_weights(values: Tensor, block_type: str) -> Tensor:
    """Floating [rows, columns] to uint8 [rows, bytes per row] of Q8_0 or Q4_0.

    A block whose values are too small for a float16 scale becomes zero. ValueError for another type, for rows that are
    not whole blocks, and for NaN, infinity and values too large for a float16 scale.
    """
    check(values, block_type)
    values = values.to(torch.float32)
    # Not written as ">=": NaN is not less than anything.
    if not bool((values.abs() < too_large(block_type)).all()):
        raise ValueError(f"It holds NaN, infinity or a value of {too_large(block_type):.0f} or more.")
    if block_type == "Q8_0":
        return quantize(values, block_type)
    blocks = values.reshape(-1, _BLOCK)
    starts = range(0, len(blocks), _BLOCKS_AT_A_TIME)
    packed = [pack_q4_0(blocks[start : start + _BLOCKS_AT_A_TIME].T.contiguous(), None) for start in starts]
    return torch.cat(packed).view(values.shape[0], -1)


def check(values: Tensor, block_type: str) -> None:
    """ValueError for what `quantize_weights` refuses by type or shape."""
    if block_type not in CODES:
        raise ValueError(f"Weights are quantised to {' and '.join(CODES)}, not to {block_type}.")
    if values.dim() != 2 or not values.numel() or not values.is_floating_point() or values.shape[1] % _BLOCK:
        raise ValueError(f"{values.dtype} {list(values.shape)} is not a floating-point matrix of whole blocks of 32.")


def too_large(block_type: str) -> float:
    """The magnitude from which on a block's scale would not be a float16."""
    return _TOO_LARGE * CODES[block_type]
