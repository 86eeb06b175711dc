"""Block formats of ggml below four bits, and those whose codes name values of a table: see `blocks`.

Notation: d, m are scales and minima, q the stored integers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from landrace.kernels.reference.block_parts import half, words

IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
E2M1_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""Twice the values of a 4-bit float, so that they are whole."""


def unpack_q2_k(packed: Tensor, out: Tensor) -> None:
    """16 groups of 16: a byte holds a group's scale (low) and minimum (high), in units of d and m."""
    quarters(packed[:, 16:80], out)
    scales = (half(packed, 80) * (packed[:, :16] & 15))[:, :, None]
    minima = (half(packed, 82) * (packed[:, :16] >> 4))[:, :, None]
    out.view(-1, 16, 16).mul_(scales).sub_(minima)


def quarters(packed: Tensor, out: Tensor) -> None:
    """64 bytes to 256 numbers of two bits: 32 bytes hold the lowest bits of 32 values, then the next of the next 32."""
    pieces = out.view(-1, 2, 4, 32)
    for piece in range(4):
        pieces[:, :, piece] = packed.view(-1, 2, 32) >> 2 * piece & 3


def unpack_q3_k(packed: Tensor, out: Tensor) -> None:
    """A third bit lies apart; where it is not set, 4 is taken off. Scales have 6 bits, less 32: the low four of 16
    scales in 8 bytes, lower halves first, and the high two in 4 bytes, lowest bits first."""
    quarters(packed[:, 32:96], out)
    parts = out.view(-1, 8, 32)
    for part in range(8):
        parts[:, part] -= ((packed[:, :32] >> part & 1) ^ 1) << 2
    low, high = packed[:, 96:104], packed[:, 104:108]
    lows = torch.cat((low & 15, low >> 4), dim=1)
    highs = torch.cat([high >> 2 * part & 3 for part in range(4)], dim=1)
    scales = half(packed, 108) * ((lows | highs << 4).float() - 32)
    out.view(-1, 16, 16).mul_(scales[:, :, None])


def unpack_tq1_0(packed: Tensor, out: Tensor) -> None:
    """Five base-3 digits a byte, as a fraction of 256: the first digit is the whole part of three times it."""
    at = 0
    for first, end, digits in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        for digit in range(digits):
            fraction = (packed[:, first:end].int() * 3**digit) & 255
            out[:, at : at + end - first] = (fraction * 3 >> 8) - 1
            at += end - first
    out.mul_(half(packed, 52))


def unpack_tq2_0(packed: Tensor, out: Tensor) -> None:
    quarters(packed[:, :64], out)
    out.sub_(1).mul_(half(packed, 64))


def unpack_iq4_nl(packed: Tensor, out: Tensor) -> None:
    _named(packed[:, 2:], IQ4_VALUES, out)
    out.mul_(half(packed, 0))


def unpack_iq4_xs(packed: Tensor, out: Tensor) -> None:
    """Eight groups of 32, each with a scale of 6 bits, less 32: two of them in the word at byte 2, four at byte 4."""
    groups = out.view(-1, 8, 32)
    _named(packed[:, 8:].reshape(-1, 16), IQ4_VALUES, groups.view(-1, 32))
    high = words(packed, 2, 4, torch.int16)
    low = torch.stack((packed[:, 4:8] & 15, packed[:, 4:8] >> 4), dim=2).flatten(1)
    scales = low | (high >> torch.arange(0, 16, 2, device=packed.device) & 3) << 4
    groups.mul_((half(packed, 0) * (scales.float() - 32))[:, :, None])


def unpack_mxfp4(packed: Tensor, out: Tensor) -> None:
    """A power of two, 2^(e - 127), and 32 E2M1 values (OCP Microscaling Formats, 2023)."""
    _named(packed[:, 1:], E2M1_DOUBLED, out)
    # Bits of the float 2^(e - 128), which is subnormal for the two smallest.
    exponent = packed[:, :1].int()
    bits = torch.where(exponent < 2, 0x00200000 << exponent.clamp(max=1), (exponent - 1) << 23)
    out.mul_(bits.view(torch.float32))


def unpack_nvfp4(packed: Tensor, out: Tensor) -> None:
    """Four groups of 16 E2M1 values, each with a scale in E4M3 without sign, where 127 counts as zero."""
    groups = out.view(-1, 4, 16)
    codes = packed[:, 4:].reshape(-1, 8)
    groups.view(-1, 16)[:, :8] = _values(codes & 15, E2M1_DOUBLED)
    groups.view(-1, 16)[:, 8:] = _values(codes >> 4, E2M1_DOUBLED)
    code = packed[:, :4].int()
    exponent, mantissa = code >> 3 & 15, (code & 7).float()
    scales = torch.where(exponent == 0, mantissa / 512, torch.ldexp(1 + mantissa / 8, exponent - 7)) / 2
    groups.mul_(torch.where((code == 0) | (code == 127), 0.0, scales)[:, :, None])


def _named(codes: Tensor, table: tuple[int, ...], out: Tensor) -> None:
    """16 bytes name 32 values: the low halves the first 16, the high halves the others."""
    out[:, :16] = _values(codes & 15, table)
    out[:, 16:] = _values(codes >> 4, table)


def _values(codes: Tensor, table: tuple[int, ...]) -> Tensor:
    return torch.tensor(table, dtype=torch.float32, device=codes.device)[codes.int()]
