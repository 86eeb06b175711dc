"""Alternating measurements, and what their samples say: medians, and the spread of the pairs' ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Figures = tuple[float, ...]
"""What one measurement gives: one figure for each result of a row."""


@dataclass(frozen=True)
class Ratio:
    """How many times as good ours is: above 1, ours is better."""

    median: float
    low: float
    high: float


def alternate(measure: Mapping[str, Callable[[int], Figures]], pairs: int) -> dict[str, list[Figures]]:
    """Measures everybody in turns, A B C A B C, so that a slower moment of the machine meets all of them.

    Each call is given the number of its pair.
    """
    samples: dict[str, list[Figures]] = {name: [] for name in measure}
    for pair in range(pairs):
        for name, run in measure.items():
            samples[name].append(run(pair))
    return samples


def timed(work: Callable[[], object]) -> float:
    """Seconds `work` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def pair_ratio(ours: Sequence[float], theirs: Sequence[float], *, higher_is_better: bool) -> Ratio:
    """Median, lowest and highest of the ratios within each pair. ValueError for samples that are not in pairs."""
    quotients = [a / b if higher_is_better else b / a for a, b in zip(ours, theirs, strict=True)]
    return Ratio(statistics.median(quotients), min(quotients), max(quotients))
