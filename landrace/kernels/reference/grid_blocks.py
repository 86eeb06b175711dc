"""Block formats of ggml whose codes name points of a grid (IQ1, IQ2, IQ3): see `blocks` and `grids`."""

from __future__ import annotations

import torch
from torch import Tensor

from landrace.kernels.reference.block_parts import fields, half, words
from landrace.kernels.reference.grids import grid

_SHIFT = 0.125
"""By how much IQ1's points are moved up or down."""


def unpack_iq2_xxs(packed: Tensor, out: Tensor) -> None:
    """Eight groups of 32: four codes, and a word with four numbers of signs and the group's scale on top."""
    pairs = words(packed, 2, 66, torch.int32).view(-1, 8, 2)
    scales = half(packed, 0) * (0.5 + (pairs[..., 1] >> 28).float()) * 0.25
    codes = pairs[..., 0, None] >> torch.arange(0, 32, 8) & 255
    _signed(_points("IQ2_XXS", codes) * scales[:, :, None, None], _parity_signs(pairs[..., 1]), out)


def unpack_iq2_xs(packed: Tensor, out: Tensor) -> None:
    """A word of 16 bits for eight values: nine bits of code, seven of signs. A scale of four bits for 16 values."""
    codes = words(packed, 2, 66, torch.int16)
    scales = _nibble_scales(packed, 66, 74)
    points = _points("IQ2_XS", codes & 511).view(-1, 16, 2, 8) * scales[:, :, None, None]
    _signed(points, _with_parity(codes >> 9).view(-1, 16, 2), out)


def unpack_iq2_s(packed: Tensor, out: Tensor) -> None:
    """Ten bits of code, the high two apart; eight signs a byte."""
    codes = packed[:, 2:34].int() | fields(packed[:, 66:74], 2).flatten(1) << 8
    scales = _nibble_scales(packed, 74, 82)
    points = _points("IQ2_S", codes).view(-1, 16, 2, 8) * scales[:, :, None, None]
    _signed(points, packed[:, 34:66].int().view(-1, 16, 2), out)


def unpack_iq3_xxs(packed: Tensor, out: Tensor) -> None:
    """Eight groups of 32: eight codes of four values, and a word as in IQ2_XXS."""
    word = words(packed, 66, 98, torch.int32)
    scales = half(packed, 0) * (0.5 + (word >> 28).float()) * 0.5
    points = _points("IQ3_XXS", packed[:, 2:66].int()).view(-1, 8, 4, 8) * scales[:, :, None, None]
    _signed(points, _parity_signs(word), out)


def unpack_iq3_s(packed: Tensor, out: Tensor) -> None:
    """Nine bits of code for four values, the highest apart; eight signs a byte; a scale of four bits for 32 values."""
    codes = packed[:, 2:66].int() | fields(packed[:, 66:74], 1).flatten(1) << 8
    scales = half(packed, 0) * (1 + 2 * fields(packed[:, 106:110], 4).flatten(1))
    points = _points("IQ3_S", codes).view(-1, 8, 4, 8) * scales[:, :, None, None]
    _signed(points, packed[:, 74:106].int().view(-1, 8, 4), out)


def unpack_iq1_s(packed: Tensor, out: Tensor) -> None:
    """Eight groups of 32: eleven bits of code for eight values, the high three in a word with the group's scale and the
    sign of its shift."""
    word = words(packed, 34, 50, torch.int16)
    codes = packed[:, 2:34].int().view(-1, 8, 4) | (word[:, :, None] >> torch.arange(0, 12, 3) & 7) << 8
    scales = half(packed, 0) * (2 * (word >> 12 & 7) + 1)
    shift = torch.where(word & 0x8000 == 0, _SHIFT, -_SHIFT)
    out.view(-1, 8, 4, 8).copy_(scales[:, :, None, None] * (_points("IQ1_S", codes) + shift[:, :, None, None]))


def unpack_iq1_m(packed: Tensor, out: Tensor) -> None:
    """As IQ1_S with a scale for 16 values and a shift for 8; the float16 scale of all is the top four bits of the four
    words of scales."""
    word = words(packed, 48, 56, torch.int16)
    bits = (word >> 12 << torch.arange(0, 16, 4)).sum(dim=1, keepdim=True)
    whole = bits.to(torch.int32).view(torch.int16)[:, :1].contiguous().view(torch.float16).float()
    scales = whole * (2 * (word[:, :, None] >> torch.arange(0, 12, 3) & 7).flatten(1) + 1)
    high = fields(packed[:, 32:48], 4).flatten(1)
    codes = packed[:, :32].int() | (high & 7) << 8
    shift = torch.where(high & 8 == 0, _SHIFT, -_SHIFT)
    values = (_points("IQ1_S", codes) + shift[:, :, None]).view(-1, 16, 2, 8)
    out.view(-1, 16, 2, 8).copy_(scales[:, :, None, None] * values)


def _points(name: str, codes: Tensor) -> Tensor:
    """The points' values on a new last axis."""
    return grid(name).to(codes.device)[codes]


def _nibble_scales(packed: Tensor, first: int, end: int) -> Tensor:
    return half(packed, 0) * (0.5 + fields(packed[:, first:end], 4).flatten(1)) * 0.25


def _parity_signs(word: Tensor) -> Tensor:
    """Four numbers of seven bits in each word, as bytes of eight signs."""
    return _with_parity(word[..., None] >> torch.arange(0, 28, 7) & 127)


def _with_parity(seven: Tensor) -> Tensor:
    """The eighth sign makes the number of minus signs even."""
    parity = seven.clone()
    for shift in (4, 2, 1):
        parity ^= parity >> shift
    return seven | (parity & 1) << 7


def _signed(points: Tensor, signs: Tensor, out: Tensor) -> None:
    """Eight values with a byte of signs each."""
    minus = signs[..., None] >> torch.arange(8) & 1
    out.view(points.shape).copy_(torch.where(minus == 0, points, -points))
