"""The learning rate of each optimizer step: a linear rise, then half a cosine down to a floor."""

from __future__ import annotations

import math


def warmup_steps(total_steps: int, warmup_ratio: float) -> int:
    """Steps of the rise: at least one step is left for the descent."""
    return min(math.ceil(total_steps * warmup_ratio), total_steps - 1)


def learning_rate(step: int, total_steps: int, peak: float, *, warmup_ratio: float, min_lr_ratio: float) -> float:
    """Rate of step `step`, counted from 0, of `total_steps`.

    The rise gives step s the rate peak * (s + 1) / (w + 1), so the first step already learns and the peak falls on
    step w. From there, with t going from 0 at step w to 1 at the last step,
    peak * (m + (1 - m) * (1 + cos(pi t)) / 2), m being `min_lr_ratio` (Loshchilov and Hutter, SGDR, 2017, one period).
    """
    rise = warmup_steps(total_steps, warmup_ratio)
    if step < rise:
        return peak * (step + 1) / (rise + 1)
    progress = (step - rise) / max(1, total_steps - 1 - rise)
    return peak * (min_lr_ratio + (1 - min_lr_ratio) * (1 + math.cos(math.pi * progress)) / 2)
