"""Intervals and tests, against scipy, scikit-learn, and the published examples of their authors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landrace.errors import OptionError
from landrace.evaluation.statistics import (
    binomial_half_test,
    macro_f1,
    macro_f1_interval,
    mcnemar,
    paired_difference,
    tango_interval,
    wilson_interval,
)

stats = pytest.importorskip("scipy.stats")
metrics = pytest.importorskip("sklearn.metrics")


def outcomes(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[bool], list[bool]]:
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second


@given(st.integers(1, 4000), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_scipy(total: int, data: st.DataObject, confidence: float) -> None:
    correct = data.draw(st.integers(0, total))
    found = wilson_interval(correct, total, confidence)
    reference = stats.binomtest(correct, total).proportion_ci(confidence, method="wilson")
    assert found.low == pytest.approx(reference.low, abs=1e-12)
    assert found.high == pytest.approx(reference.high, abs=1e-12)
    assert 0 <= found.low <= correct / total <= found.high <= 1


def test_wilson_solves_its_defining_equation() -> None:
    """The bounds are the shares p at which (observed - p) is z standard errors of p."""
    interval = wilson_interval(81, 263)
    for bound in (interval.low, interval.high):
        assert abs(81 / 263 - bound) / math.sqrt(bound * (1 - bound) / 263) == pytest.approx(1.959963984540054)


def test_wilson_published_example() -> None:
    """Newcombe (1998), Statistics in Medicine 17:857, table I, method 3 (without continuity correction)."""
    assert round_pair(wilson_interval(81, 263)) == (0.2553, 0.3662)
    assert round_pair(wilson_interval(15, 148)) == (0.0624, 0.1605)
    assert round_pair(wilson_interval(0, 20)) == (0.0, 0.1611)
    assert round_pair(wilson_interval(1, 29)) == (0.0061, 0.1718)


def round_pair(interval: object) -> tuple[float, float]:
    return round(interval.low, 4), round(interval.high, 4)  # type: ignore[attr-defined]


def test_wilson_without_rows_and_out_of_range() -> None:
    assert (wilson_interval(0, 0).low, wilson_interval(0, 0).high) == (0.0, 1.0)
    with pytest.raises(OptionError):
        wilson_interval(3, 2)
    with pytest.raises(OptionError, match="confidence"):
        wilson_interval(1, 2, confidence=95)


@given(st.integers(0, 300), st.integers(0, 300))
def test_exact_mcnemar_equals_the_binomial_test_of_scipy(only_first: int, only_second: int) -> None:
    result = mcnemar(*outcomes(5, only_first, only_second, 5))
    total = only_first + only_second
    reference = 1.0 if total == 0 else stats.binomtest(only_first, total, 0.5).pvalue
    assert result.p_value == pytest.approx(reference, rel=1e-9)
    assert (result.only_first, result.only_second) == (only_first, only_second)


@given(st.integers(1, 300), st.data())
def test_mid_p_is_the_exact_p_less_the_point_probability(total: int, data: st.DataObject) -> None:
    smaller = data.draw(st.integers(0, total // 2))
    tail = 2 * stats.binom.cdf(smaller, total, 0.5) - stats.binom.pmf(smaller, total, 0.5)
    exact, mid_p = binomial_half_test(smaller, total)
    assert mid_p == pytest.approx(min(1.0, tail), rel=1e-9)
    assert mid_p <= exact


def test_mcnemar_published_example() -> None:
    """Fagerland, Lydersen and Laake (2013): airway hyper-responsiveness before and after stem cell transplantation."""
    result = mcnemar(*outcomes(1, 1, 7, 12))
    assert result.p_value == pytest.approx(0.0703, abs=5e-5)
    assert result.mid_p == pytest.approx(0.0391, abs=5e-5)


def test_mcnemar_of_thousands_of_rows_does_not_overflow() -> None:
    result = mcnemar(*outcomes(0, 9000, 9500, 0))
    assert result.p_value == pytest.approx(stats.binomtest(9000, 18500, 0.5).pvalue, rel=1e-6)


def test_paired_difference_published_example() -> None:
    """Tango's interval without correction: Fagerland, Lydersen and Laake (2014), Statistics in Medicine 33:2850."""
    found = tango_interval(7, 1, 21)
    assert (round(found.low, 3), round(found.high, 3)) == (0.026, 0.517)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.0, 1.0]))
def test_the_bounds_of_a_paired_difference_solve_its_equation(
    both: int, lost: int, gained: int, neither: int, continuity: float
) -> None:
    total = both + lost + gained + neither
    if total == 0:
        return
    found = tango_interval(gained, lost, total, continuity=continuity)
    assert -1 <= found.low <= (gained - lost) / total <= found.high <= 1
    for bound, inside in ((found.low, 1), (found.high, -1)):
        if abs(bound) < 1:
            # The likelihood of (gained, lost) at a difference d, maximised over the share of lost rows by a fine grid.
            grid = np.linspace(max(0.0, -bound), (1 - bound) / 2, 200_001)[1:-1]
            equal = (both + neither) * np.log(1 - 2 * grid - bound)
            share = float(grid[np.argmax(gained * np.log(grid + bound) + lost * np.log(grid) + equal)])
            spread = math.sqrt(total * (2 * share + bound - bound * bound))
            distance = inside * (gained - lost - total * bound) - continuity
            assert distance == pytest.approx(1.96 * spread, rel=0.01, abs=0.02)


def test_the_interval_leaves_out_zero_exactly_where_the_exact_test_rejects() -> None:
    for discordant in range(61):
        for gained in range(discordant + 1):
            lost = discordant - gained
            p_value, _ = binomial_half_test(min(gained, lost), discordant)
            for equal in (0, 1, 5, 100):
                if discordant + equal:
                    found = paired_difference(*outcomes(equal, lost, gained, 0))
                    excludes = found.interval.low > 0 or found.interval.high < 0
                    assert excludes == (p_value < 0.05), (gained, lost, equal)


def test_little_evidence_gives_a_wide_interval() -> None:
    one = paired_difference([False], [True])
    assert (one.value, one.interval.high) == (1, 1)
    assert one.interval.low < -0.5
    same = paired_difference([True] * 20, [True] * 20)
    assert same.value == 0
    assert same.interval.high == -same.interval.low > 0.1
    assert macro_f1_interval(["a", "b"], ["a", "b"]) == wilson_interval(2, 2)
    assert macro_f1_interval(["a", "b"], ["b", None]) == wilson_interval(0, 2)


def test_a_paired_difference_turns_round() -> None:
    first, second = outcomes(50, 8, 20, 22)
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert (there.value, there.interval.low) == (-back.value, -back.interval.high)


def test_paired_tests_refuse_rows_that_do_not_pair() -> None:
    with pytest.raises(OptionError, match="same rows"):
        mcnemar([True], [True, False])
    with pytest.raises(OptionError, match="at least one"):
        paired_difference([], [])


label = st.sampled_from(["refund", "check_in", "退款", "prijava"])


@given(st.lists(st.tuples(label, st.one_of(label, st.none())), min_size=1, max_size=60))
def test_macro_f1_equals_scikit_learn(rows: list[tuple[str, str | None]]) -> None:
    expected, predicted = [row[0] for row in rows], [row[1] for row in rows]
    names = sorted(set(expected) | {item for item in predicted if item is not None})
    written = [item if item is not None else "(unparsed)" for item in predicted]
    reference = metrics.f1_score(expected, written, labels=names, average="macro", zero_division=0)
    assert macro_f1(expected, predicted) == pytest.approx(reference)


def test_macro_f1_interval_agrees_with_resampled_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    expected = [str(code) for code in generator.integers(0, 4, 150)]
    predicted: list[str | None] = [item if generator.random() < 0.8 else None for item in expected]
    scores = []
    for _ in range(400):
        rows = generator.integers(0, 150, 150)
        truth, answer = [expected[row] for row in rows], [predicted[row] or "-" for row in rows]
        scores.append(metrics.f1_score(truth, answer, labels=sorted(set(truth)), average="macro", zero_division=0))
    found = macro_f1_interval(expected, predicted, seed=1)
    assert found.low == pytest.approx(np.quantile(scores, 0.025), abs=0.015)
    assert found.high == pytest.approx(np.quantile(scores, 0.975), abs=0.015)
    assert found.low < macro_f1(expected, predicted) < found.high
