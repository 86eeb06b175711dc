"""Block formats, ggml's above all: packed bytes to float32 and back, in plain PyTorch.

A block holds `elements` consecutive values of one row in `bytes` bytes. The layouts follow `ggml-common.h` and the
order of the float32 operations follows `ggml-quants.c`, so results are equal to ggml's bit for bit.
Notation: d, m are float16 scales and minima, q the stored integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from landrace.kernels.reference import code_blocks, grid_blocks, small_blocks
from landrace.kernels.reference.block_parts import half

CHUNK_ELEMENTS = 1 << 19
"""Values unpacked at a time: the temporaries stay in the processor's cache, and memory is bounded."""


@dataclass(frozen=True)
class BlockType:
    """`ggml_id`: the number GGUF files store, None for a type that ggml has not; one block is `elements` values in
    `bytes` bytes."""

    ggml_id: int | None
    elements: int
    bytes: int


BLOCKS: Mapping[str, BlockType] = MappingProxyType(
    {
        "F32": BlockType(0, 1, 4),
        "F16": BlockType(1, 1, 2),
        "Q4_0": BlockType(2, 32, 18),
        "Q4_1": BlockType(3, 32, 20),
        "Q5_0": BlockType(6, 32, 22),
        "Q5_1": BlockType(7, 32, 24),
        "Q8_0": BlockType(8, 32, 34),
        "Q4_K": BlockType(12, 256, 144),
        "Q5_K": BlockType(13, 256, 176),
        "Q6_K": BlockType(14, 256, 210),
        "BF16": BlockType(30, 1, 2),
        "Q2_K": BlockType(10, 256, 84),
        "Q3_K": BlockType(11, 256, 110),
        "IQ2_XXS": BlockType(16, 256, 66),
        "IQ2_XS": BlockType(17, 256, 74),
        "IQ3_XXS": BlockType(18, 256, 98),
        "IQ1_S": BlockType(19, 256, 50),
        "IQ4_NL": BlockType(20, 32, 18),
        "IQ3_S": BlockType(21, 256, 110),
        "IQ2_S": BlockType(22, 256, 82),
        "IQ4_XS": BlockType(23, 256, 136),
        "IQ1_M": BlockType(29, 256, 56),
        "TQ1_0": BlockType(34, 256, 54),
        "TQ2_0": BlockType(35, 256, 66),
        "MXFP4": BlockType(39, 32, 17),
        "NVFP4": BlockType(40, 64, 36),
        "F8_F32": BlockType(None, 32, 36),
        "E5M2_F32": BlockType(None, 32, 36),
        "NF4_F32": BlockType(None, 32, 20),
        "FP4_F32": BlockType(None, 32, 20),
        "NVFP4_F32": BlockType(None, 32, 22),
        "I8_F32": BlockType(None, 32, 37),
        "I4_F16": BlockType(None, 32, 19),
        "I4_BF16": BlockType(None, 32, 19),
    }
)


def dequantize(raw: Tensor, block_type: str, columns: int) -> Tensor:
    """uint8 [rows, bytes per row] to float32 [rows, columns]. Infinite and NaN scales give what the arithmetic gives.

    ValueError when the bytes of a row do not make `columns` values of `block_type` (a key of `BLOCKS`).
    """
    block = BLOCKS[block_type]
    if raw.dtype != torch.uint8 or raw.dim() != 2 or columns % block.elements:
        raise ValueError(f"{block_type} needs uint8 rows of whole {block.elements}-value blocks, not {columns} values.")
    if raw.shape[1] != columns // block.elements * block.bytes:
        raise ValueError(f"{columns} values of {block_type} do not fit rows of {raw.shape[1]} bytes.")
    out = torch.empty(raw.shape[0], columns, dtype=torch.float32, device=raw.device)
    packed = raw.contiguous().view(-1, block.bytes)
    values = out.view(-1, block.elements)
    step = max(1, CHUNK_ELEMENTS // block.elements)
    unpack = _UNPACK[block_type]
    for start in range(0, packed.shape[0], step):
        unpack(packed[start : start + step], values[start : start + step])
    return out


def quantize(values: Tensor, block_type: str) -> Tensor:
    """Floating [rows, columns] to uint8 [rows, bytes per row], by ggml's reference rounding.

    ValueError for a type without an encoder or a row that is not whole blocks.
    """
    if block_type not in _PACK:
        raise ValueError(f"No encoder for {block_type}; there is one for {', '.join(_PACK)}.")
    block = BLOCKS[block_type]
    rows, columns = values.shape
    if columns % block.elements:
        raise ValueError(f"{columns} columns are not whole {block.elements}-value blocks of {block_type}.")
    blocks = values.to(torch.float32).contiguous().view(-1, block.elements)
    return _PACK[block_type](blocks).view(rows, columns // block.elements * block.bytes)


def _unpack_float(dtype: torch.dtype) -> Callable[[Tensor, Tensor], None]:
    def unpack(packed: Tensor, out: Tensor) -> None:
        out.copy_(packed.contiguous().view(dtype))

    return unpack


def _nibbles(packed: Tensor, at: int, out: Tensor) -> None:
    """16 bytes of low and high nibbles: q[i] = byte i & 15, q[16 + i] = byte i >> 4."""
    pairs = packed[:, at : at + 16]
    out[:, :16] = pairs & 15
    out[:, 16:] = pairs >> 4


def _fifth_bits(packed: Tensor, at: int, out: Tensor) -> None:
    """Add 16 where the bit of the 32-bit little-endian word at byte `at` is set: bit i belongs to q[i]."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    bits = (packed[:, at : at + 4, None] >> shifts & 1) << 4
    out.add_(bits.view(-1, 32))


def _unpack_q4_0(packed: Tensor, out: Tensor) -> None:
    _nibbles(packed, 2, out)
    out.sub_(8).mul_(half(packed, 0))


def _unpack_q4_1(packed: Tensor, out: Tensor) -> None:
    _nibbles(packed, 4, out)
    out.mul_(half(packed, 0)).add_(half(packed, 2))


def _unpack_q5_0(packed: Tensor, out: Tensor) -> None:
    _nibbles(packed, 6, out)
    _fifth_bits(packed, 2, out)
    out.sub_(16).mul_(half(packed, 0))


def _unpack_q5_1(packed: Tensor, out: Tensor) -> None:
    _nibbles(packed, 8, out)
    _fifth_bits(packed, 4, out)
    out.mul_(half(packed, 0)).add_(half(packed, 2))


def _unpack_q8_0(packed: Tensor, out: Tensor) -> None:
    out.copy_(packed[:, 2:].view(torch.int8))
    out.mul_(half(packed, 0))


def _k_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and minimum of the eight 32-value groups of a Q4_K or Q5_K block, float32 [n, 8, 1] each.

    Twelve bytes hold eight 6-bit scales and eight 6-bit minima: four bytes of scales, four of minima, each with the
    low 6 bits of groups 0 to 3 and in the top 2 bits the high part of groups 4 to 7, whose low 4 bits (scale in the
    low nibble, minimum in the high one) fill the last four bytes.
    """
    scale, minimum, low = packed[:, 4:8], packed[:, 8:12], packed[:, 12:16]
    scales = torch.cat((scale & 63, low & 15 | scale >> 2 & 48), dim=1)
    minima = torch.cat((minimum & 63, low >> 4 | minimum >> 2 & 48), dim=1)
    return (half(packed, 0) * scales)[:, :, None], (half(packed, 2) * minima)[:, :, None]


def _unpack_q4_k(packed: Tensor, out: Tensor) -> None:
    groups, pairs = out.view(-1, 8, 32), packed[:, 16:].view(-1, 4, 32)
    groups[:, 0::2] = pairs & 15
    groups[:, 1::2] = pairs >> 4
    scales, minima = _k_scales(packed)
    groups.mul_(scales).sub_(minima)


def _unpack_q5_k(packed: Tensor, out: Tensor) -> None:
    groups, pairs, high = out.view(-1, 8, 32), packed[:, 48:].view(-1, 4, 32), packed[:, 16:48]
    for group in range(8):
        low = pairs[:, group // 2] >> 4 if group % 2 else pairs[:, group // 2] & 15
        groups[:, group] = low | (high >> group & 1) << 4
    scales, minima = _k_scales(packed)
    groups.mul_(scales).sub_(minima)


def _unpack_q6_k(packed: Tensor, out: Tensor) -> None:
    low, high = packed[:, :128].view(-1, 2, 2, 32), packed[:, 128:192].view(-1, 2, 32)
    quarters = out.view(-1, 2, 4, 32)
    for quarter in range(4):
        nibble = low[:, :, quarter % 2] >> 4 if quarter > 1 else low[:, :, quarter % 2] & 15
        quarters[:, :, quarter] = nibble | (high >> 2 * quarter & 3) << 4
    scales = half(packed, 208) * packed[:, 192:208].view(torch.int8)
    out.view(-1, 16, 16).sub_(32).mul_(scales[:, :, None])


_UNPACK: Mapping[str, Callable[[Tensor, Tensor], None]] = MappingProxyType(
    {
        "F32": _unpack_float(torch.float32),
        "F16": _unpack_float(torch.float16),
        "BF16": _unpack_float(torch.bfloat16),
        "Q4_0": _unpack_q4_0,
        "Q4_1": _unpack_q4_1,
        "Q5_0": _unpack_q5_0,
        "Q5_1": _unpack_q5_1,
        "Q8_0": _unpack_q8_0,
        "Q4_K": _unpack_q4_k,
        "Q5_K": _unpack_q5_k,
        "Q6_K": _unpack_q6_k,
        "Q2_K": small_blocks.unpack_q2_k,
        "Q3_K": small_blocks.unpack_q3_k,
        "IQ2_XXS": grid_blocks.unpack_iq2_xxs,
        "IQ2_XS": grid_blocks.unpack_iq2_xs,
        "IQ3_XXS": grid_blocks.unpack_iq3_xxs,
        "IQ1_S": grid_blocks.unpack_iq1_s,
        "IQ4_NL": small_blocks.unpack_iq4_nl,
        "IQ3_S": grid_blocks.unpack_iq3_s,
        "IQ2_S": grid_blocks.unpack_iq2_s,
        "IQ4_XS": small_blocks.unpack_iq4_xs,
        "IQ1_M": grid_blocks.unpack_iq1_m,
        "TQ1_0": small_blocks.unpack_tq1_0,
        "TQ2_0": small_blocks.unpack_tq2_0,
        "MXFP4": small_blocks.unpack_mxfp4,
        "NVFP4": small_blocks.unpack_nvfp4,
        "F8_F32": code_blocks.unpack_f8(torch.float8_e4m3fn),
        "E5M2_F32": code_blocks.unpack_f8(torch.float8_e5m2),
        "NF4_F32": code_blocks.unpack_coded(code_blocks.NF4),
        "FP4_F32": code_blocks.unpack_coded(code_blocks.FP4),
        "NVFP4_F32": code_blocks.unpack_nvfp4,
        "I8_F32": code_blocks.unpack_i8,
        "I4_F16": code_blocks.unpack_i4(torch.float16),
        "I4_BF16": code_blocks.unpack_i4(torch.bfloat16),
    }
)


def _bytes_of(halves: Tensor) -> Tensor:
    return halves.to(torch.float16).view(torch.uint8)


def inverse_of(scale: Tensor) -> Tensor:
    """1 / scale; 0 where that is infinite: such a scale is zero in float16, so the integers do not matter."""
    inverse = 1 / scale
    return torch.where(inverse.isinf(), torch.zeros_like(scale), inverse)


def _pack_float(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    def pack(blocks: Tensor) -> Tensor:
        return blocks.to(dtype).view(torch.uint8)

    return pack


def _pack_nibbles(q: Tensor) -> Tensor:
    whole = q.clamp(0, 15).to(torch.uint8)
    return whole[:, :16] | whole[:, 16:] << 4


def _pack_q4_0(blocks: Tensor) -> Tensor:
    """d = (value of largest magnitude) / -8, q = trunc(x / d + 8.5)."""
    extreme = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True))
    scale = extreme / -8
    return torch.cat((_bytes_of(scale), _pack_nibbles((blocks * inverse_of(scale) + 8.5).trunc())), dim=1)


def _pack_q4_1(blocks: Tensor) -> Tensor:
    """m = min, d = (max - min) / 15, q = trunc((x - m) / d + 0.5)."""
    low, high = blocks.aminmax(dim=1, keepdim=True)
    scale = (high - low) / 15
    q = ((blocks - low) * inverse_of(scale) + 0.5).trunc()
    return torch.cat((_bytes_of(scale), _bytes_of(low), _pack_nibbles(q)), dim=1)


def _pack_q8_0(blocks: Tensor) -> Tensor:
    """d = (largest magnitude) / 127, q = x / d rounded half away from zero."""
    scale = blocks.abs().amax(dim=1, keepdim=True) / 127
    q = blocks * inverse_of(scale)
    rounded = torch.sign(q) * torch.floor(q.abs() + 0.5)
    return torch.cat((_bytes_of(scale), rounded.to(torch.int8).view(torch.uint8)), dim=1)


_PACK: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "F32": _pack_float(torch.float32),
        "F16": _pack_float(torch.float16),
        "BF16": _pack_float(torch.bfloat16),
        "Q4_0": _pack_q4_0,
        "Q4_1": _pack_q4_1,
        "Q8_0": _pack_q8_0,
    }
)
