"""Intervals and tests for shares of right answers. Every function names the source of its formula.

Shares are between 0 and 1. Anything random takes a seed and uses numpy's PCG64, so it repeats exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from landrace.errors import OptionError

RESAMPLES = 2_000


@dataclass(frozen=True)
class Interval:
    """A two-sided interval, 95% unless said otherwise."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Accuracy of the second system minus that of the first on the same rows, with a score interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class McNemar:
    """Rows where exactly one of two systems is right, and the two-sided p-values that this is chance."""

    only_first: int
    only_second: int
    p_value: float
    mid_p: float


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> Interval:
    """Score interval of a share.

    Wilson (1927), "Probable inference, the law of succession, and statistical inference", JASA 22:
    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). No rows say nothing: 0 to 1.
    """
    if not 0 <= correct <= total:
        raise OptionError(f"{correct} right answers of {total} rows is not a share.")
    z = _two_sided_quantile(confidence)
    if total == 0:
        return Interval(0.0, 1.0)
    share = correct / total
    shrink = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / shrink
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / shrink
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == total else min(1.0, centre + half)
    return Interval(low, high)


def paired_difference(first: Sequence[bool], second: Sequence[bool], *, confidence: float = 0.95) -> Difference:
    """Difference in accuracy on the same rows, with a score interval that agrees with the exact McNemar test.

    It is Tango's interval (see `tango_interval`) with a correction for continuity of one row, as in Edwards (1948),
    "Note on the correction for continuity in testing the significance of the difference between correlated
    proportions", Psychometrika 13. In the few tables where the exact test rejects and one row is just too much (the
    first has 13 rows gained and 4 lost) it is as much less as that asks. So at 95% the interval leaves out zero exactly
    where the exact p-value is below 0.05. One row, or rows without a difference, give a wide interval.
    """
    gained, lost, total = _discordant(second, first)
    if total == 0:
        raise OptionError("A paired difference needs at least one row.")
    continuity = 1.0
    exact, _ = binomial_half_test(min(gained, lost), gained + lost)
    if exact < 1 - confidence:
        spare = abs(gained - lost) - _two_sided_quantile(confidence) * math.sqrt(gained + lost)
        continuity = min(1.0, 0.95 * max(0.0, spare))
    return Difference((gained - lost) / total, tango_interval(gained, lost, total, confidence, continuity))


def tango_interval(gained: int, lost: int, total: int, confidence: float = 0.95, continuity: float = 0.0) -> Interval:
    """Score interval of (gained - lost) / total for paired rows.

    Tango (1998), "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17: the differences d for which |gained - lost - n d| - continuity is at most z
    standard errors sqrt(n (2 q + d (1 - d))), where q is the maximum likelihood share of rows lost if the difference
    is d. At d = 0 that is McNemar's test.
    """
    z = _two_sided_quantile(confidence)
    high = _tango_bound(gained, lost, total, z, continuity)
    return Interval(-_tango_bound(lost, gained, total, z, continuity), high)


def _tango_bound(gained: int, lost: int, total: int, z: float, continuity: float) -> float:
    """The largest difference that is not z standard errors above the observed one, by bisection."""

    def beyond(difference: float) -> bool:
        # The maximum likelihood share of lost rows solves 2n q^2 + b q + c = 0.
        linear = -(gained + lost) + (2 * total - gained + lost) * difference
        constant = -lost * difference * (1 - difference)
        share = (math.sqrt(max(0.0, linear * linear - 8 * total * constant)) - linear) / (4 * total)
        variance = total * (2 * share + difference * (1 - difference))
        return total * difference - (gained - lost) - continuity > z * math.sqrt(max(0.0, variance))

    low, high = (gained - lost) / total, 1.0
    if not beyond(high):
        return high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return low


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """McNemar's test of two systems on the same rows.

    McNemar (1947), Psychometrika 12, in its exact form: under chance the discordant rows are Binomial(n, 1/2), and the
    p-value is twice the smaller tail, at most 1. The mid-p value takes half the weight of the observed point:
    Fagerland, Lydersen and Laake (2013), BMC Medical Research Methodology 13:91.
    """
    only_first, only_second, _ = _discordant(first, second)
    exact, mid_p = binomial_half_test(min(only_first, only_second), only_first + only_second)
    return McNemar(only_first, only_second, exact, mid_p)


def binomial_half_test(smaller: int, total: int) -> tuple[float, float]:
    """Two-sided exact and mid-p values of `smaller` successes out of `total` (smaller <= total / 2) at chance 1/2."""
    if total == 0:
        return 1.0, 1.0
    term = tail = 1
    for index in range(1, smaller + 1):
        term = term * (total - index + 1) // index
        tail += term
    scale = 1 << total
    exact = min(1.0, 2 * tail / scale)
    mid_p = min(1.0, (2 * tail - term) / scale)
    return exact, mid_p


def macro_f1(expected: Sequence[str], predicted: Sequence[str | None]) -> float:
    """Unweighted mean of F1 = 2TP / (2TP + FP + FN) over the labels that are expected or answered.

    Sokolova and Lapalme (2009), Information Processing and Management 45. An unparsed answer (None) is a miss of the
    expected label and a false alarm of none.
    """
    truth, answer, labels = _coded(expected, predicted)
    return _macro_f1(truth, answer, labels)


def macro_f1_interval(
    expected: Sequence[str],
    predicted: Sequence[str | None],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of the macro F1; a draw averages over the labels that it contains.

    Where every answer is right, or every one wrong, all draws are alike and say nothing of chance. The macro F1 is the
    accuracy there, 1 or 0, and so is its interval: Wilson's.
    """
    truth, answer, labels = _coded(expected, predicted)
    right = int(np.count_nonzero(truth == answer))
    if right in (0, len(truth)):
        return wilson_interval(right, len(truth), confidence)
    generator = np.random.default_rng(seed)
    scores = np.empty(resamples)
    for draw in range(resamples):
        rows = generator.integers(0, len(truth), size=len(truth))
        scores[draw] = _macro_f1(truth[rows], answer[rows], labels)
    return _percentiles(scores, confidence)


def mean_interval(
    values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = 0.95
) -> Interval:
    """Percentile bootstrap interval of a mean. Efron (1979), Annals of Statistics 7."""
    if not values:
        raise OptionError("The interval of a mean needs at least one value.")
    sample = np.asarray(values, dtype=np.float64)
    rows = np.random.default_rng(seed).integers(0, len(sample), size=(resamples, len(sample)))
    return _percentiles(sample[rows].mean(axis=1), confidence)


def _macro_f1(truth: NDArray[np.int64], answer: NDArray[np.int64], labels: int) -> float:
    """Macro F1 of coded labels; code `labels` stands for an unparsed answer."""
    hits = np.bincount(truth[truth == answer], minlength=labels)[:labels]
    support = np.bincount(truth, minlength=labels)[:labels]
    answered = np.bincount(answer, minlength=labels + 1)[:labels]
    sizes = support + answered
    present = sizes > 0
    return float(np.mean(2 * hits[present] / sizes[present]))


def _coded(
    expected: Sequence[str], predicted: Sequence[str | None]
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    if len(expected) != len(predicted) or not expected:
        raise OptionError(f"Macro F1 needs as many answers as rows, at least one: {len(expected)}, {len(predicted)}.")
    names = sorted(set(expected) | {label for label in predicted if label is not None})
    codes: dict[str | None, int] = {name: code for code, name in enumerate(names)}
    codes[None] = len(names)
    truth = np.array([codes[label] for label in expected], dtype=np.int64)
    answer = np.array([codes[label] for label in predicted], dtype=np.int64)
    return truth, answer, len(names)


def _discordant(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int, int]:
    """(rows only the first has right, rows only the second has right, rows)."""
    if len(first) != len(second):
        raise OptionError(f"A paired test needs the same rows twice, not {len(first)} and {len(second)}.")
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    return only_first, only_second, len(first)


def _percentiles(values: NDArray[np.float64], confidence: float) -> Interval:
    tail = (1 - _checked(confidence)) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _two_sided_quantile(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + _checked(confidence) / 2)


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise OptionError(f"confidence must lie between 0 and 1, not {confidence}.")
    return confidence
