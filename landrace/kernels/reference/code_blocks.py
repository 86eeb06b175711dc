"""Block formats for what other programs than ggml store: made of their tensors without loss, and not written to files.

F8_F32, E5M2_F32: a float32 scale and 32 floats of 8 bits (E4M3, without infinities, or E5M2). I4_F16, I4_BF16: a scale
of that type, a zero point in a byte and 32 integers of 4 bits; I8_F32: the same in float32 and 8 bits. A value is
scale * (integer - zero point). NF4_F32, FP4_F32: a float32 scale and 32 codes of the 4-bit NormalFloat (Dettmers et
al., 2023) or of bitsandbytes' own 4-bit float. NVFP4_F32: a float32 scale for all, two of 8 bits (E4M3) and 32 floats
of 4 bits (E2M1), 16 to each of the two. Nibbles are in ggml's order, those of values i and i + 16 in a byte.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
FP4 = tuple(
    value / 12
    for value in (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0, 0.0, -0.0625, -8.0, -12.0, -4.0, -6.0, -2.0, -3.0)
)
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def f8_blocks(numbers: Tensor, scales: Tensor) -> Tensor:
    """8-bit floats [rows, columns] and float32 [rows, columns / 32] to uint8 [rows, bytes per row]."""
    rows = len(numbers)
    codes = numbers.contiguous().view(torch.uint8).view(rows, -1, 32)
    return torch.cat((_bytes_of(scales), codes), dim=2).view(rows, -1)


def i8_blocks(numbers: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """uint8 [rows, columns], float32 scales and uint8 zero points [rows, columns / 32] to uint8 [rows, bytes per
    row]."""
    rows = len(numbers)
    return torch.cat((_bytes_of(scales), zeros[..., None], numbers.reshape(rows, -1, 32)), dim=2).view(rows, -1)


def coded_blocks(codes: Tensor, scales: Tensor) -> Tensor:
    """NF4_F32 or FP4_F32: uint8 [rows, columns] and float32 [rows, columns / 32] to uint8 [rows, bytes per row]."""
    return torch.cat((_bytes_of(scales), _nibbles(codes)), dim=2).view(len(codes), -1)


def nvfp4_blocks(codes: Tensor, scales: Tensor, whole: Tensor) -> Tensor:
    """uint8 [rows, columns], float8_e4m3fn [rows, columns / 16] and a float32 number to uint8 [rows, bytes per row]."""
    pairs = scales.contiguous().view(torch.uint8).view(len(codes), -1, 2)
    return torch.cat((_bytes_of(whole.expand(pairs.shape[:2])), pairs, _nibbles(codes)), dim=2).view(len(codes), -1)


def i4_blocks(numbers: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """uint8 [rows, columns], scales of 16 bits and uint8 zero points [rows, columns / 32] to uint8 [rows, bytes per
    row]."""
    return torch.cat((_bytes_of(scales), zeros[..., None], _nibbles(numbers)), dim=2).view(len(numbers), -1)


def unpack_f8(dtype: torch.dtype) -> Callable[[Tensor, Tensor], None]:
    """The reader of blocks of such 8-bit floats."""

    def unpack(packed: Tensor, out: Tensor) -> None:
        out.copy_(packed[:, 4:].view(dtype)).mul_(_scale(packed))

    return unpack


def unpack_i8(packed: Tensor, out: Tensor) -> None:
    out.copy_(packed[:, 5:])
    out.sub_(packed[:, 4:5]).mul_(_scale(packed))


def unpack_coded(table: tuple[float, ...]) -> Callable[[Tensor, Tensor], None]:
    """The reader of blocks of codes of this table."""

    def unpack(packed: Tensor, out: Tensor) -> None:
        out.copy_(torch.tensor(table, device=packed.device)[_codes(packed[:, 4:])]).mul_(_scale(packed))

    return unpack


def unpack_nvfp4(packed: Tensor, out: Tensor) -> None:
    scales = _own(packed[:, 4:6]).view(torch.float8_e4m3fn).float() * _scale(packed)
    out.copy_(torch.tensor(E2M1, device=packed.device)[_codes(packed[:, 6:])]).view(-1, 2, 16).mul_(scales[:, :, None])


def unpack_i4(scale: torch.dtype) -> Callable[[Tensor, Tensor], None]:
    """The reader of I4 blocks with scales of this type."""

    def unpack(packed: Tensor, out: Tensor) -> None:
        out[:, :16] = packed[:, 3:] & 15
        out[:, 16:] = packed[:, 3:] >> 4
        out.sub_(packed[:, 2:3]).mul_(_own(packed[:, :2]).view(scale).float())

    return unpack


def _scale(packed: Tensor) -> Tensor:
    return _own(packed[:, :4]).view(torch.float32)


def _bytes_of(scales: Tensor) -> Tensor:
    return scales.contiguous().view(torch.uint8).view(*scales.shape, -1)


def _nibbles(numbers: Tensor) -> Tensor:
    """uint8 [rows, columns] to [rows, columns / 32, 16]."""
    groups = numbers.reshape(len(numbers), -1, 32)
    return groups[..., :16] | groups[..., 16:] << 4


def _codes(nibbles: Tensor) -> Tensor:
    """uint8 [blocks, 16] to int32 [blocks, 32]."""
    return torch.cat((nibbles & 15, nibbles >> 4), dim=1).int()


def _own(part: Tensor) -> Tensor:
    """In memory without gaps, a single row too, so that its bytes can be taken together."""
    return part.clone(memory_format=torch.contiguous_format)
