"""Scales of groups of weights: searched, then fitted by least squares, so that integers lose least.

A group is a column of x [size, n]. Errors are squared and weighted: by the importance of a weight's input where it is
known, else by |x| + (mean of |x| in the group), since an error in a great weight costs a model more than the same error
in a small one. All sums run over a group's values in order, in float32, as those of the C++ kernels do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Snap = Callable[[Tensor], Tensor]
"""Each value to the nearest that can be stored at a scale of 1."""

_STEPS = tuple(2.5 - 0.25 * i for i in range(17))
_AFFINE_STEPS = tuple(-1.0 + 0.125 * i for i in range(17))
TOO_SMALL = 2.0**-25
"""Up to here, a value rounds to zero in float16."""


def integers(low: int, high: int) -> Snap:
    """The whole numbers from `low` to `high`."""
    return lambda values: values.clamp(low, high).round()


def table(levels: Sequence[int]) -> Snap:
    """These values, which ascend."""
    known = torch.tensor(levels, dtype=torch.float32)
    borders = (known[1:] + known[:-1]) / 2
    return lambda values: known.to(values.device)[torch.bucketize(values, borders.to(values.device))]


def targets_of(low: int) -> tuple[float, ...]:
    """What a search for integers from `low` up takes a group's value of greatest magnitude to: near `low`, where it is
    clipped or rounded up a little and often fits the others better."""
    return tuple(low + step for step in _STEPS)


def total(terms: Tensor) -> Tensor:
    """[size, n] to [n], in order."""
    found = torch.zeros_like(terms[0])
    for term in terms:
        found += term
    return found


def weights_of(x: Tensor, importance: Tensor | None) -> Tensor:
    """What an error in each value counts. `importance`: x's shape."""
    if importance is not None:
        return importance
    size = x.abs()
    return size + total(size) * (1 / len(x))


def inverse_of(scale: Tensor) -> Tensor:
    """1 / scale; 0 where that is infinite: such a scale is zero in float16, so the integers do not matter."""
    inverse = 1 / scale
    return torch.where(inverse.isinf(), torch.zeros_like(scale), inverse)


def error(x: Tensor, weights: Tensor, scale: Tensor, snap: Snap) -> Tensor:
    """The weighted squared error of each group at `scale` [n]."""
    missed = x - scale * snap(x * inverse_of(scale))
    return total(weights * missed * missed)


def extremes(x: Tensor) -> Tensor:
    """Each group's value of greatest magnitude, the first of equals."""
    most, extreme = torch.zeros_like(x[0]), torch.zeros_like(x[0])
    for value, own in zip(x, x.abs(), strict=True):
        extreme = torch.where(own > most, value, extreme)
        most = torch.maximum(own, most)
    return extreme


def fit_scale(x: Tensor, weights: Tensor, extreme: Tensor, snap: Snap, targets: Sequence[float]) -> Tensor:
    """The scale [n] at which each group loses least: of those that take `extreme` to one of `targets`, each replaced by
    the one that fits its numbers best. 0 where `extreme` is."""
    weighted = weights * x
    inverse = torch.where(extreme == 0, torch.zeros_like(extreme), 1 / extreme)
    best, found = torch.zeros_like(extreme), torch.zeros_like(extreme)
    for target in targets:
        q = snap(x * (target * inverse))
        with_value = total(weighted * q)
        scale = with_value / total(weights * q * q)
        saved = scale * with_value
        better = saved > best  # never for 0 / 0
        found, best = torch.where(better, scale, found), torch.where(better, saved, best)
    return found


def fit_affine(x: Tensor, weights: Tensor, largest: int, *, any_sign: bool = False) -> tuple[Tensor, Tensor]:
    """The scale and the minimum [n] at which scale * q - minimum, with whole numbers q from 0 to `largest`, loses
    least. The minimum is not negative, unless `any_sign`."""
    low, high = x.aminmax(dim=0)
    if not any_sign:
        low = low.clamp(max=0)
    span = high - low
    inverse = torch.where(span <= TOO_SMALL, torch.zeros_like(span), 1 / span)
    weighted, all_weights = weights * x, total(weights)
    with_x = total(weighted)
    # All the same number.
    minimum = torch.where(all_weights > 0, -with_x / all_weights, 0.0)
    if not any_sign:
        minimum = minimum.clamp(min=0)
    scale, best = torch.zeros_like(low), -minimum * with_x
    snap = integers(0, largest)
    for step in _AFFINE_STEPS:
        q = snap((x - low) * ((largest + step) * inverse))
        once = weights * q
        q_sum, q_squares, q_x = total(once), total(once * q), total(weighted * q)
        own_scale, own_minimum = _solved(all_weights, q_sum, q_squares, q_x, with_x)
        if not any_sign:
            flat = ~(own_minimum >= 0)
            own_scale = torch.where(flat, q_x / q_squares, own_scale)
            own_minimum = torch.where(flat, torch.zeros_like(low), own_minimum)
        saved = own_scale * q_x - own_minimum * with_x
        better = saved > best
        scale, minimum = torch.where(better, own_scale, scale), torch.where(better, own_minimum, minimum)
        best = torch.where(better, saved, best)
    return scale, minimum


def _solved(ones: Tensor, q_sum: Tensor, q_squares: Tensor, q_x: Tensor, x_sum: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and minimum of least squares for fixed q, out of weighted sums of 1, q, q^2, q x and x."""
    determinant = ones * q_squares - q_sum * q_sum
    return (ones * q_x - q_sum * x_sum) / determinant, (q_sum * q_x - q_squares * x_sum) / determinant
