"""Encoders of super-blocks of 256 values, whose groups have scales (and minima) in few bits: x [size, n, groups], a
group a column, to uint8 [n, bytes].

Each group's scale is searched by itself (`fitting`). The super-block's scale takes the greatest of them to the end of
their range, and is then fitted anew to the integers; each group takes of its own integer scale and its neighbours the
one that loses least. A minimum is tried with each of them: the integer that fits the group's levels, and its
neighbours. `importance`: what an error in each value counts, as x; None: not known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from landrace.kernels.reference.block_encoders import IQ4, IQ4_TARGETS, half_bytes, iq4_codes, nibbles
from landrace.kernels.reference.fitting import (
    Snap,
    extremes,
    fit_affine,
    fit_scale,
    integers,
    inverse_of,
    targets_of,
    total,
    weights_of,
)

_NEIGHBOURS = (0, -1, 1)
_ROUNDS = 2
"""How often the groups' scales are chosen, the second time for a super-block's scale that fits the first choice."""


@dataclass(frozen=True)
class _Signed:
    scale: Tensor
    """[n], exact in float16."""
    scales: Tensor
    """[n, groups], whole numbers."""
    levels: Tensor
    """[size, n, groups]: what the values are snapped to."""


@dataclass(frozen=True)
class _Affine:
    scale: Tensor
    """[n], exact in float16, and so `minimum`."""
    minimum: Tensor
    scales: Tensor
    """[n, groups], whole numbers, and so `minima`."""
    minima: Tensor
    q: Tensor
    """[size, n, groups]."""


def pack_q6_k(x: Tensor, importance: Tensor | None) -> Tensor:
    found = _signed(x, importance, integers(-32, 31), targets_of(-32), -128)
    q = _in_order(found.levels + 32).view(-1, 2, 4, 32)
    low = (q[:, :, :2] & 15 | (q[:, :, 2:] & 15) << 4).flatten(1)
    scales = found.scales.to(torch.int8).view(torch.uint8)
    return torch.cat((low, _quarters(q >> 4), scales, half_bytes(found.scale)), dim=1)


def pack_q3_k(x: Tensor, importance: Tensor | None) -> Tensor:
    found = _signed(x, importance, integers(-4, 3), targets_of(-4), -32)
    q = _in_order(found.levels + 4)
    scales = (found.scales + 32).to(torch.uint8)
    low = scales[:, :8] & 15 | (scales[:, 8:] & 15) << 4
    high = _shifted(scales.view(-1, 4, 4) >> 4, 2)
    third = _shifted(q.view(-1, 8, 32) >> 2, 1)
    return torch.cat((third, _quarters(q.view(-1, 2, 4, 32) & 3), low, high, half_bytes(found.scale)), dim=1)


def pack_iq4_xs(x: Tensor, importance: Tensor | None) -> Tensor:
    found = _signed(x, importance, IQ4, IQ4_TARGETS, -32)
    scales = (found.scales + 32).to(torch.uint8)
    high = _shifted((scales >> 4).view(-1, 2, 4).transpose(1, 2), 2)
    low = scales[:, 0::2] & 15 | (scales[:, 1::2] & 15) << 4
    codes = iq4_codes(found.levels).permute(1, 2, 0).reshape(-1, 32)
    return torch.cat((half_bytes(found.scale), high, low, nibbles(codes).reshape(len(low), -1)), dim=1)


def pack_q2_k(x: Tensor, importance: Tensor | None) -> Tensor:
    found = _affine(x, importance, 3, 15)
    scales = found.scales.to(torch.uint8) | found.minima.to(torch.uint8) << 4
    q = _quarters(_in_order(found.q).view(-1, 2, 4, 32))
    return torch.cat((scales, q, half_bytes(found.scale), half_bytes(found.minimum)), dim=1)


def pack_q4_k(x: Tensor, importance: Tensor | None) -> Tensor:
    found = _affine(x, importance, 15, 63)
    q = _in_order(found.q).view(-1, 8, 32)
    return torch.cat((*_six_bits(found), (q[:, 0::2] | q[:, 1::2] << 4).flatten(1)), dim=1)


def pack_q5_k(x: Tensor, importance: Tensor | None) -> Tensor:
    found = _affine(x, importance, 31, 63)
    q = _in_order(found.q).view(-1, 8, 32)
    low = q & 15
    return torch.cat((*_six_bits(found), _shifted(q >> 4, 1), (low[:, 0::2] | low[:, 1::2] << 4).flatten(1)), dim=1)


def _signed(x: Tensor, importance: Tensor | None, snap: Snap, targets: tuple[float, ...], lowest: int) -> _Signed:
    """`lowest`: the least of the whole numbers that scales are stored as."""
    weights = weights_of(x, importance)
    flat, flat_weights = x.flatten(1), weights.flatten(1)
    own = fit_scale(flat, flat_weights, extremes(flat), snap, targets).view(x.shape[1:])
    scale = (extremes(own.T) / lowest).half().float()
    whole = integers(lowest, -lowest - 1)
    for _ in range(_ROUNDS):
        nearest = whole(own * inverse_of(scale)[:, None])
        scales, lost = nearest, torch.full_like(own, torch.inf)
        for step in _NEIGHBOURS:
            tried = whole(nearest + step)
            effective = scale[:, None] * tried
            levels = snap(x * inverse_of(effective))
            missed = x - effective * levels
            own_lost = total(weights * missed * missed)
            better = own_lost < lost
            scales = torch.where(better, tried, scales)
            lost = torch.where(better, own_lost, lost)
        chosen = scales * snap(x * inverse_of(scale[:, None] * scales))
        with_x, squares = (total(weights * chosen * other).sum(dim=1) for other in (x, chosen))
        scale = torch.where(squares > 0, with_x / squares, scale).half().float()
    return _Signed(scale, scales, snap(x * inverse_of(scale[:, None] * scales)))


def _affine(x: Tensor, importance: Tensor | None, largest: int, most: int) -> _Affine:
    """`most`: the greatest of the whole numbers that scales and minima are stored as."""
    weights = weights_of(x, importance)
    own_scales, own_minima = (
        found.view(x.shape[1:]) for found in fit_affine(x.flatten(1), weights.flatten(1), largest)
    )
    scale, minimum = ((own.amax(dim=1) / most).half().float() for own in (own_scales, own_minima))
    whole, snap = integers(0, most), integers(0, largest)
    ones, x_sum = total(weights), total(weights * x)
    for _ in range(_ROUNDS):
        nearest = whole(own_scales * inverse_of(scale)[:, None])
        lost = torch.full_like(own_scales, torch.inf)
        scales, minima = nearest, torch.zeros_like(nearest)
        for step in _NEIGHBOURS:
            tried = whole(nearest + step)
            effective = scale[:, None] * tried
            # The minimum that fits the integers which the group's own would give.
            q = snap((x + own_minima) * inverse_of(effective))
            fitted = whole((effective * total(weights * q) - x_sum) / ones * inverse_of(minimum)[:, None])
            for beside in _NEIGHBOURS:
                least = whole(fitted + beside)
                below = minimum[:, None] * least
                missed = x + below - effective * snap((x + below) * inverse_of(effective))
                own_lost = total(weights * missed * missed)
                better = own_lost < lost
                scales, minima = torch.where(better, tried, scales), torch.where(better, least, minima)
                lost = torch.where(better, own_lost, lost)
        scale, minimum = _refitted(x, weights, _Affine(scale, minimum, scales, minima, x), snap)
    below = minimum[:, None] * minima
    return _Affine(scale, minimum, scales, minima, snap((x + below) * inverse_of(scale[:, None] * scales)))


def _refitted(x: Tensor, weights: Tensor, found: _Affine, snap: Snap) -> tuple[Tensor, Tensor]:
    """The super-blocks' scale and minimum that fit all of their integers best."""
    below = found.minimum[:, None] * found.minima
    chosen = found.scales * snap((x + below) * inverse_of(found.scale[:, None] * found.scales))
    once = weights * chosen
    squares, with_x = total(once * chosen).sum(dim=1), total(once * x).sum(dim=1)
    mixed = (total(once) * found.minima).sum(dim=1)
    minima_squares = (total(weights) * found.minima * found.minima).sum(dim=1)
    minima_x = (total(weights * x) * found.minima).sum(dim=1)
    determinant = squares * minima_squares - mixed * mixed
    scale = (minima_squares * with_x - mixed * minima_x) / determinant
    minimum = (mixed * with_x - squares * minima_x) / determinant
    solved = (scale > 0) & (minimum >= 0) & scale.isfinite() & minimum.isfinite()
    return tuple(  # type: ignore[return-value]
        torch.where(solved, new, old).half().float() for new, old in ((scale, found.scale), (minimum, found.minimum))
    )


def _in_order(q: Tensor) -> Tensor:
    """[size, n, groups] to uint8 [n, 256]."""
    return q.to(torch.uint8).permute(1, 2, 0).reshape(q.shape[1], -1)


def _shifted(q: Tensor, bits: int) -> Tensor:
    """uint8 [n, parts, width], each below 2^bits, to [n, width]: the first part in the lowest bits."""
    shifts = torch.arange(0, bits * q.shape[1], bits, dtype=torch.uint8, device=q.device)
    return (q << shifts[:, None]).sum(dim=1, dtype=torch.uint8)


def _quarters(q: Tensor) -> Tensor:
    """uint8 [n, 2, 4, 32] below 4 to [n, 64]."""
    return _shifted(q.flatten(0, 1), 2).view(len(q), -1)


def _six_bits(found: _Affine) -> tuple[Tensor, Tensor, Tensor]:
    """The super-blocks' scale and minimum, and the groups' in twelve bytes: see `blocks._k_scales`."""
    scales, minima = found.scales.to(torch.uint8), found.minima.to(torch.uint8)
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = minima[:, :4] | minima[:, 4:] >> 4 << 6
    last = scales[:, 4:] & 15 | (minima[:, 4:] & 15) << 4
    return half_bytes(found.scale), half_bytes(found.minimum), torch.cat((first, second, last), dim=1)
