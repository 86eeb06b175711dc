"""Float weights to blocks of 32 with a scale: Q8_0 by ggml's rounding, Q4_0 with the scale that loses least.

Eight bits lose little however they are rounded. With four, the scale matters: ggml's takes the value of greatest
magnitude to -8, and a smaller one, which clips that value or rounds it up, often fits the other 31 better. So for every
block, candidates take the extreme value to -5.5, -5.75, ... -9.5; each is replaced by the scale that fits its integers
best, by least squares; and the best of them is stored, unless ggml's is better once both are rounded to float16.

Errors are squared and weighted by |x| + (mean of |x| in the block): an error in a great weight costs a model more than
the same error in a small one.

The C++ kernels compute the same bits: all sums run over a block's values in order, in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from landrace.kernels.reference.blocks import BLOCKS, inverse_of, quantize

CODES = {"Q8_0": 127, "Q4_0": 8}
"""The types that weights are quantised to, and the integer that ggml takes a block's greatest magnitude to."""
_BLOCK = 32
_CANDIDATES = tuple(-5.5 - 0.25 * i for i in range(17))
_TOO_LARGE = 65520.0
"""What rounds to infinity in float16."""
_TOO_SMALL = 2.0**-22
"""Up to here, an eighth of a value rounds to zero in float16."""
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
    packed = [_pack_q4_0(blocks[start : start + _BLOCKS_AT_A_TIME].T.contiguous()) for start in starts]
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


def _sum(terms: Tensor) -> Tensor:
    """[32, n] to [n], in order."""
    total = torch.zeros_like(terms[0])
    for term in terms:
        total += term
    return total


def _codes(quotients: Tensor) -> Tensor:
    return quotients.clamp(-8, 7).round()


def _error(x: Tensor, weights: Tensor, scale: Tensor) -> Tensor:
    missed = x - scale * _codes(x * inverse_of(scale))
    return _sum(weights * missed * missed)


def _pack_q4_0(x: Tensor) -> Tensor:
    """Columns of blocks [32, n] to uint8 [n, 18]."""
    size = x.abs()
    most, extreme = torch.zeros_like(x[0]), torch.zeros_like(x[0])
    for value, own in zip(x, size, strict=True):
        extreme = torch.where(own > most, value, extreme)
        most = torch.maximum(own, most)
    weights = size + _sum(size) * (1 / _BLOCK)
    weighted = weights * x
    is_zero = most <= _TOO_SMALL
    inverse = torch.where(is_zero, torch.zeros_like(extreme), 1 / extreme)
    best, found = torch.zeros_like(extreme), torch.zeros_like(extreme)
    for candidate in _CANDIDATES:
        q = _codes(x * (candidate * inverse))
        with_value = _sum(weighted * q)
        scale = with_value / _sum(weights * q * q)
        saved = scale * with_value
        better = saved > best  # never for 0 / 0
        found, best = torch.where(better, scale, found), torch.where(better, saved, best)
    fitted = found.half().float()
    plain = torch.where(is_zero, torch.zeros_like(extreme), extreme / -8).half().float()
    scale = torch.where(_error(x, weights, fitted) < _error(x, weights, plain), fitted, plain)
    q = (_codes(x * inverse_of(scale)) + 8).to(torch.uint8).T
    halves = scale.half().view(torch.uint8).view(-1, BLOCKS["Q4_0"].bytes - _BLOCK // 2)
    return torch.cat((halves, q[:, :16] | q[:, 16:] << 4), dim=1)
