"""Encoders of blocks of 32 values with a scale of their own: columns of x [32, n] to uint8 [n, bytes].

With eight bits little is lost however they are rounded. With fewer, the scale matters: ggml's takes the value of
greatest magnitude to the end of the range, and a smaller one, which clips that value or rounds it up, often fits the
other 31 better (`fitting`). `importance`: what an error in each value counts, [32, n]; None: not known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from landrace.kernels.reference.fitting import (
    TOO_SMALL,
    Snap,
    error,
    extremes,
    fit_affine,
    fit_scale,
    integers,
    inverse_of,
    table,
    targets_of,
    weights_of,
)
from landrace.kernels.reference.small_blocks import E2M1_DOUBLED, IQ4_VALUES

IQ4 = table(IQ4_VALUES)
IQ4_TARGETS = (*(-127.0 + 4.0 * i for i in range(-6, 9)), *(113.0 + 4.0 * i for i in range(-8, 7)))
"""What a search takes the value of greatest magnitude to: near either end, since the table has no symmetry."""
_E2M1_LEVELS = tuple(sorted(set(E2M1_DOUBLED)))
_E2M1 = table(_E2M1_LEVELS)
_E2M1_CODES = tuple(E2M1_DOUBLED.index(level) for level in _E2M1_LEVELS)
_EXPONENT_BIAS = 128
"""Of MXFP4, for values that are doubled."""


def pack_q4_0(x: Tensor, importance: Tensor | None) -> Tensor:
    scale, q = _searched(x, importance, -8)
    return torch.cat((half_bytes(scale), nibbles(q)), dim=1)


def pack_q5_0(x: Tensor, importance: Tensor | None) -> Tensor:
    scale, q = _searched(x, importance, -16)
    return torch.cat((half_bytes(scale), _fifth_bits(q), nibbles(q & 15)), dim=1)


def pack_q4_1(x: Tensor, importance: Tensor | None) -> Tensor:
    scale, low, q = _affine(x, importance, 15)
    return torch.cat((half_bytes(scale), half_bytes(low), nibbles(q)), dim=1)


def pack_q5_1(x: Tensor, importance: Tensor | None) -> Tensor:
    scale, low, q = _affine(x, importance, 31)
    return torch.cat((half_bytes(scale), half_bytes(low), _fifth_bits(q), nibbles(q & 15)), dim=1)


def pack_iq4_nl(x: Tensor, importance: Tensor | None) -> Tensor:
    weights = weights_of(x, importance)
    fitted = fit_scale(x, weights, extremes(x), IQ4, IQ4_TARGETS).half().float()
    return torch.cat((half_bytes(fitted), nibbles(iq4_codes(IQ4(x * inverse_of(fitted))).T)), dim=1)


def pack_mxfp4(x: Tensor, importance: Tensor | None) -> Tensor:
    """The power of two by which the greatest magnitude is 4 or more and less than 8, or one of its neighbours."""
    weights = weights_of(x, importance)
    usual = torch.frexp(x.abs().amax(dim=0)).exponent.int() - 4
    best, found = torch.full_like(x[0], torch.inf), usual
    for exponent in (usual, usual - 1, usual + 1):
        bounded = exponent.clamp(-126, 126)
        lost = error(x, weights, torch.ldexp(torch.ones_like(x[0]), bounded), _E2M1)
        found, best = torch.where(lost < best, bounded, found), torch.minimum(lost, best)
    levels = _E2M1(x * torch.ldexp(torch.ones_like(x[0]), -found))
    codes = torch.tensor(_E2M1_CODES, dtype=torch.uint8, device=x.device)[_places(levels, _E2M1_LEVELS)]
    return torch.cat(((found + _EXPONENT_BIAS).to(torch.uint8)[:, None], nibbles(codes.T)), dim=1)


def half_bytes(values: Tensor) -> Tensor:
    """[n] to the bytes of float16, uint8 [n, 2]."""
    return values.half().view(torch.uint8).view(-1, 2)


def nibbles(q: Tensor) -> Tensor:
    """uint8 [n, 32] below 16 to uint8 [n, 16]: the first half of them in the low bits."""
    return q[:, :16] | q[:, 16:] << 4


def iq4_codes(levels: Tensor) -> Tensor:
    """Values of IQ4's table to their places in it, uint8."""
    return _places(levels, IQ4_VALUES).to(torch.uint8)


def _places(levels: Tensor, known: tuple[int, ...]) -> Tensor:
    return torch.bucketize(levels, torch.tensor(known, dtype=torch.float32, device=levels.device))


def _searched(x: Tensor, importance: Tensor | None, low: int) -> tuple[Tensor, Tensor]:
    """The scale, exact in float16, and the integers from `low` on, less `low`: uint8 [n, 32]. It is ggml's scale where
    that is better once both are rounded."""
    snap: Snap = integers(low, -low - 1)
    weights, extreme = weights_of(x, importance), extremes(x)
    extreme = torch.where(extreme.abs() <= TOO_SMALL * -low, torch.zeros_like(extreme), extreme)
    fitted = fit_scale(x, weights, extreme, snap, targets_of(low)).half().float()
    plain = (extreme / low + 0.0).half().float()  # no -0
    better = error(x, weights, fitted, snap) < error(x, weights, plain, snap)
    scale = torch.where(better, fitted, plain)
    return scale, (snap(x * inverse_of(scale)) - low).to(torch.uint8).T


def _affine(x: Tensor, importance: Tensor | None, largest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scale and least value, exact in float16, and the integers, uint8 [n, 32]."""
    scale, minimum = fit_affine(x, weights_of(x, importance), largest, any_sign=True)
    scale, low = scale.half().float(), (-minimum).half().float()
    return scale, low, integers(0, largest)((x - low) * inverse_of(scale)).to(torch.uint8).T


def _fifth_bits(q: Tensor) -> Tensor:
    """uint8 [n, 32] to uint8 [n, 4]: bit i is that of q[i]."""
    shifts = torch.arange(8, dtype=torch.uint8, device=q.device)
    return ((q.reshape(-1, 4, 8) >> 4 & 1) << shifts).sum(dim=2, dtype=torch.uint8)
