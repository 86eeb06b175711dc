"""Block formats for what other programs than ggml store: made of their tensors without loss, and not written to files.

F8_F32: a float32 scale and 32 floats of 8 bits (E4M3, without infinities). I4_F16, I4_BF16: a scale of that type, a
zero point in a byte and 32 integers of 4 bits, in ggml's order of nibbles; a value is scale * (integer - zero point).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def f8_f32_blocks(numbers: Tensor, scales: Tensor) -> Tensor:
    """float8_e4m3fn [rows, columns] and float32 [rows, columns / 32] to uint8 [rows, bytes per row]."""
    rows = len(numbers)
    codes = numbers.contiguous().view(torch.uint8).view(rows, -1, 32)
    return torch.cat((scales.contiguous().view(torch.uint8).view(rows, -1, 4), codes), dim=2).view(rows, -1)


def i4_blocks(numbers: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """uint8 [rows, columns], scales of 16 bits and uint8 zero points [rows, columns / 32] to uint8 [rows, bytes per
    row]."""
    rows = len(numbers)
    groups = numbers.reshape(rows, -1, 32)
    nibbles = groups[..., :16] | groups[..., 16:] << 4
    halves = scales.contiguous().view(torch.uint8).view(rows, -1, 2)
    return torch.cat((halves, zeros[..., None], nibbles), dim=2).view(rows, -1)


def unpack_f8_f32(packed: Tensor, out: Tensor) -> None:
    out.copy_(packed[:, 4:].view(torch.float8_e4m3fn))
    out.mul_(_own(packed[:, :4]).view(torch.float32))


def unpack_i4(scale: torch.dtype) -> Callable[[Tensor, Tensor], None]:
    """The reader of I4 blocks with scales of this type."""

    def unpack(packed: Tensor, out: Tensor) -> None:
        out[:, :16] = packed[:, 3:] & 15
        out[:, 16:] = packed[:, 3:] >> 4
        out.sub_(packed[:, 2:3]).mul_(_own(packed[:, :2]).view(scale).float())

    return unpack


def _own(part: Tensor) -> Tensor:
    """In memory without gaps, a single row too, so that its bytes can be taken together."""
    return part.clone(memory_format=torch.contiguous_format)
