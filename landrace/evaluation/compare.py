"""Several systems on the same rows: quality with intervals, paired tests, speed, and the cost of a right answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from landrace.errors import OptionError
from landrace.evaluation.results import Evaluation, FieldScore
from landrace.evaluation.statistics import Difference, Interval, McNemar, mcnemar, paired_difference

DEFAULT_PRICE_PER_HOUR = 0.10
CURRENCY = "USD"
SECONDS_PER_HOUR = 3600
_MODEL_CONDITIONS = (
    ("template_sha256", "prompt"),
    ("chat_template_sha256", "chat template"),
    ("sampling", "sampling"),
    ("guided", "guidance: of some, answers were held to those of the task"),
    ("shots", "number of examples in the prompt"),
)


@dataclass(frozen=True)
class Pair:
    """`second` against `first` on the same rows: a positive difference means that the second is right more often."""

    first: str
    second: str
    difference: Difference
    test: McNemar

    @property
    def significant(self) -> bool:
        return self.test.p_value < 0.05


@dataclass(frozen=True)
class FieldPair:
    """The `pair` of two systems on one field of an extraction."""

    field: str
    pair: Pair


@dataclass(frozen=True)
class Entry:
    """One line of the comparison. `against_first` is None for the first system itself. `partial` is as an Evaluation's.

    `cost_per_1000_correct` is in CURRENCY at the comparison's price; None if no answer is right.
    """

    name: str
    method: str
    guided: bool
    rows: int
    correct: int
    accuracy: float
    interval: Interval
    macro_f1: float | None
    macro_f1_interval: Interval | None
    raw_accuracy: float | None
    character_accuracy: float | None
    against_first: Pair | None
    partial: bool
    fields: tuple[FieldScore, ...]
    schema_valid: int | None
    shots: int
    tokens_per_second: float | None
    seconds_per_answer: float
    concurrency: int
    cost_per_1000_correct: float | None
    training_seconds: float | None
    unparsed: int
    refused: int
    capped: int
    errors: int
    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Comparison:
    """Entries in the order given, the price they were costed at, and remarks on what differs besides the system.

    `pairs` holds every pair of entries, so that the verdict can also set the best model against the baseline.
    A baseline that is `partial` is set against the best model in `field_pairs`, a field at a time.
    """

    task: str
    rows: int
    data_sha256: str
    price_per_hour: float
    entries: tuple[Entry, ...]
    pairs: tuple[Pair, ...]
    field_pairs: tuple[FieldPair, ...]
    remarks: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return asdict(self)

    def pair(self, first: str, second: str) -> Pair:
        """The pair of two entries, in this order."""
        for pair in self.pairs:
            if (pair.first, pair.second) == (first, second):
                return pair
            if (pair.first, pair.second) == (second, first):
                return _reversed(pair)
        raise OptionError(f"The comparison has no pair of '{first}' and '{second}'.")


def compare(
    evaluations: Sequence[Evaluation],
    *,
    price_per_hour: float = DEFAULT_PRICE_PER_HOUR,
) -> Comparison:
    """Set evaluations of the same rows side by side; the differences and p-values are against the first.

    `price_per_hour` is what the machine costs an hour (USD; an assumption that the caller should replace by the real
    price). Different data, rows or expected answers are an OptionError. The p-values are not corrected for several
    comparisons.
    """
    _check(evaluations, price_per_hour)
    correct = {item.model: [row.correct for row in item.rows] for item in evaluations}
    names = list(correct)
    pairs = tuple(
        _pair(first, second, correct[first], correct[second])
        for index, first in enumerate(names)
        for second in names[index + 1 :]
    )
    against_first = {pair.second: pair for pair in pairs if pair.first == names[0]}
    first = evaluations[0]
    return Comparison(
        task=first.task,
        rows=len(first.rows),
        data_sha256=first.data_sha256,
        price_per_hour=price_per_hour,
        entries=tuple(_entry(item, against_first.get(item.model), price_per_hour) for item in evaluations),
        pairs=pairs,
        field_pairs=tuple(_field_pairs(evaluations)),
        remarks=_remarks(evaluations),
    )


def cost_per_1000_correct(evaluation: Evaluation, price_per_hour: float) -> float | None:
    """Price of the machine time of the whole evaluation, over its right answers, times 1,000. Training is not in it."""
    if evaluation.correct == 0:
        return None
    return evaluation.wall_seconds / SECONDS_PER_HOUR * price_per_hour / evaluation.correct * 1000


def _pair(first: str, second: str, right_first: Sequence[bool], right_second: Sequence[bool]) -> Pair:
    return Pair(first, second, paired_difference(right_first, right_second), mcnemar(right_first, right_second))


def _field_pairs(evaluations: Sequence[Evaluation]) -> Iterator[FieldPair]:
    """The best model against every system that is partial, on the fields of the latter."""
    models = [item for item in evaluations if item.method != "classical"]
    if not models:
        return
    best = max(models, key=lambda item: item.correct)
    for baseline in (item for item in evaluations if item.partial):
        for score in baseline.by_field:
            ours, theirs = ([row.fields.get(score.name) == 1 for row in item.rows] for item in (baseline, best))
            yield FieldPair(score.name, _pair(baseline.model, best.model, ours, theirs))


def _entry(item: Evaluation, against_first: Pair | None, price_per_hour: float) -> Entry:
    return Entry(
        name=item.model,
        method=item.method,
        guided=item.guided,
        rows=len(item.rows),
        correct=item.correct,
        accuracy=item.accuracy,
        interval=item.interval,
        macro_f1=item.macro_f1,
        macro_f1_interval=item.macro_f1_interval,
        raw_accuracy=item.raw_accuracy,
        character_accuracy=item.character_accuracy,
        against_first=against_first,
        partial=item.partial,
        fields=item.by_field,
        schema_valid=item.schema_valid,
        shots=item.shots,
        tokens_per_second=item.tokens_per_second,
        seconds_per_answer=item.seconds_per_answer,
        concurrency=item.concurrency,
        cost_per_1000_correct=cost_per_1000_correct(item, price_per_hour),
        training_seconds=item.training_seconds,
        unparsed=item.unparsed,
        refused=item.refused,
        capped=item.capped,
        errors=item.errors,
        prompt_tokens=item.prompt_tokens,
        cached_prompt_tokens=item.cached_prompt_tokens,
        completion_tokens=item.completion_tokens,
    )


def _check(evaluations: Sequence[Evaluation], price_per_hour: float) -> None:
    if not evaluations:
        raise OptionError("A comparison needs at least one evaluation.")
    if not 0 <= price_per_hour < float("inf"):
        raise OptionError(f"price_per_hour must be a price, not {price_per_hour}.")
    names = [item.model for item in evaluations]
    if len(set(names)) < len(names):
        raise OptionError("Two of the evaluations have the same model name.", hint="Give each a name of its own.")
    first = evaluations[0]
    for item in evaluations[1:]:
        _check_same_rows(first, item)


def _check_same_rows(first: Evaluation, other: Evaluation) -> None:
    names = f"'{first.model}' and '{other.model}'"
    if first.data_sha256 != other.data_sha256:
        raise OptionError(
            f"{names} were measured on different data ({first.data_source}, {other.data_source}).",
            hint="Evaluate both on the same file.",
        )
    if [(row.id, row.expected) for row in first.rows] != [(row.id, row.expected) for row in other.rows]:
        raise OptionError(f"{names} were measured on different rows.", hint="Use the same limit, seed and answer.")


def _remarks(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """What else differs, or was left out: nothing of it may stay silent beside the scores."""
    first, remarks = evaluations[0], []
    if len(first.rows) < first.data_rows:
        remarks.append(f"A sample of {len(first.rows)} of the {first.data_rows} rows was measured (seed {first.seed}).")
    models = [item for item in evaluations if item.method != "classical"]
    for name, what in _MODEL_CONDITIONS:
        if any(getattr(item, name) != getattr(models[0], name) for item in models):
            remarks.append(f"The models did not have the same {what}.")
    if any(item.task_sha256 != first.task_sha256 for item in evaluations):
        remarks.append("The systems were not measured with the same version of the task.")
    for item in evaluations:
        if seen := item.provenance.get("rows_trained_on"):
            remarks.append(f"{item.model} was trained on {seen} rows of the task, so its score tells less.")
        if item.cached_prompt_tokens:
            share = item.cached_prompt_tokens / item.prompt_tokens
            remarks.append(f"{item.model}: {share:.0%} of the prompt tokens came from the prefix cache.")
    return tuple(remarks)


def _reversed(pair: Pair) -> Pair:
    low, high = pair.difference.interval.low, pair.difference.interval.high
    difference = Difference(-pair.difference.value, Interval(-high, -low))
    test = McNemar(pair.test.only_second, pair.test.only_first, pair.test.p_value, pair.test.mid_p)
    return Pair(pair.second, pair.first, difference, test)
