"""The comparison in plain sentences, as measured: also when nothing was gained, and when the baseline is better."""

from __future__ import annotations

from landrace.evaluation.compare import Comparison, Entry, Pair


def verdict(comparison: Comparison) -> str:
    """A sentence for every model against the first model, and one for the best model against the classical baseline."""
    models = [entry for entry in comparison.entries if entry.method != "classical"]
    baselines = [entry for entry in comparison.entries if entry.method == "classical"]
    if not models:
        return " ".join(_on_its_own(item) for item in baselines)
    first, *others = models
    best = max(models, key=lambda entry: entry.correct)
    gains = [_gain(comparison, comparison.pair(first.name, other.name)) for other in others]
    against = [
        _on_fields(comparison, item) if item.partial else _against_baseline(comparison, best, item)
        for item in baselines
    ]
    return " ".join((gains or [_score(first)]) + against)


def _score(entry: Entry) -> str:
    return (
        f"{entry.name} is right on {entry.correct} of {entry.rows} rows, {percent(entry.accuracy)} "
        f"(95% interval {percent(entry.interval.low)} to {percent(entry.interval.high)})."
    )


def _gain(comparison: Comparison, pair: Pair) -> str:
    difference = pair.test.only_second - pair.test.only_first
    if difference == 0:
        return f"{pair.second} is right on as many of the {comparison.rows} rows as {pair.first} ({_evidence(pair)})."
    count, word = abs(difference), "more" if difference > 0 else "fewer"
    scores = f"{_accuracy(comparison, pair.second)} against {_accuracy(comparison, pair.first)}"
    sentence = f"{pair.second} is right on {count} {word} of {comparison.rows} rows than {pair.first}: {scores}"
    if pair.significant:
        return f"{sentence} ({_evidence(pair)})."
    return f"{sentence}, but so small a difference may be chance ({_evidence(pair)})."


def _against_baseline(comparison: Comparison, best: Entry, baseline: Entry) -> str:
    pair = comparison.pair(baseline.name, best.name)
    difference = best.correct - baseline.correct
    scores = f"{percent(baseline.accuracy)} against {percent(best.accuracy)}"
    facts = f"{scores} ({_evidence(pair)}){_speed(best, baseline)}."
    subject = f"The baseline, {baseline.name},"
    if not pair.significant:
        return f"{subject} cannot be told apart from {best.name}: {facts} If this task is all you need, it may do."
    if difference < 0:
        return (
            f"{subject} is better than {best.name}, right on {-difference} more rows: {facts} "
            "For this task you do not need a language model."
        )
    return f"{subject} is right on {difference} fewer rows than {best.name}: {facts}"


def _on_its_own(entry: Entry) -> str:
    if not entry.partial:
        return _score(entry)
    shares = ", ".join(f"{score.name} {percent(score.score)}" for score in entry.fields)
    return f"{entry.name} answers fields with a list of values, not whole records: {shares}."


def _on_fields(comparison: Comparison, baseline: Entry) -> str:
    """Of a baseline that cannot give whole records: each field that it answers."""
    pairs = [item for item in comparison.field_pairs if item.pair.first == baseline.name]
    shares = {(entry.name, score.name): percent(score.score) for entry in comparison.entries for score in entry.fields}
    facts = [
        f"{item.field} {shares[baseline.name, item.field]} against {shares[item.pair.second, item.field]} "
        f"({_evidence(item.pair)})"
        for item in pairs
    ]
    return (
        f"The baseline, {baseline.name}, answers fields with a list of values, not whole records. Set against "
        f"{pairs[0].pair.second}: {'; '.join(facts)}."
    )


def _speed(best: Entry, baseline: Entry) -> str:
    if baseline.seconds_per_answer <= 0 or best.seconds_per_answer <= 0:
        return ""
    ratio = best.seconds_per_answer / baseline.seconds_per_answer
    return f", and answers {ratio:,.0f} times faster" if ratio >= 2 else ""


def _evidence(pair: Pair) -> str:
    low, high = pair.difference.interval.low, pair.difference.interval.high
    interval = f"95% interval of the difference {points(low)} to {points(high)} points"
    return f"{interval}, McNemar {_p_equals(pair.test.p_value)}"


def _p_equals(value: float) -> str:
    text = p_value(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _accuracy(comparison: Comparison, name: str) -> str:
    return next(percent(entry.accuracy) for entry in comparison.entries if entry.name == name)


def percent(share: float) -> str:
    """0.8725 -> "87.2%"."""
    return f"{100 * share:.1f}%"


def points(share: float) -> str:
    """A difference of shares in signed percentage points: 0.031 -> "+3.1"."""
    # Adding zero turns the -0.0 that rounding can leave into 0.0.
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def p_value(value: float) -> str:
    """A p-value that is never rounded down to zero."""
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}" if value < 0.01 else f"{value:.2f}"


def money(value: float | None) -> str:
    """A small price in CURRENCY, without it: two significant digits at least, a dash where there is none."""
    if value is None:
        return "-"
    if 0 < value < 0.0001:
        return "< 0.0001"
    return f"{value:,.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"
