"""Whether an answer is right, by the rules of the task's kind (see `task`, and docs/evaluate.md for how it is read)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from landrace.evaluation.folding import folded
from landrace.evaluation.items import read_items, same_items
from landrace.evaluation.labels import read_label
from landrace.evaluation.math_answer import formula, read_maths
from landrace.evaluation.maths import same
from landrace.evaluation.number_answer import gold_number, read_number, same_number
from landrace.evaluation.parsing import parse_pattern, parse_text
from landrace.evaluation.reading import Reading, answering_parts, refusing, strip_reasoning, unmarked
from landrace.evaluation.records import read_record
from landrace.evaluation.results import ChoiceScore
from landrace.evaluation.rows import Row
from landrace.evaluation.task import Task

Verdict = Literal["right", "wrong", "unparsed", "refused"]


@dataclass(frozen=True)
class Judgement:
    """`parsed` is None if no answer could be read: the verdict is then unparsed, or refused.

    Of an extraction `fields` are its fields' scores, from 0 to 1, and `valid` says whether it keeps to the schema.
    """

    parsed: str | None
    verdict: Verdict
    fields: Mapping[str, float] = field(default_factory=dict)
    valid: bool | None = None

    @property
    def correct(self) -> bool:
        return self.verdict == "right"

    @property
    def refused(self) -> bool:
        return self.verdict == "refused"


def judge_text(task: Task, row: Row, text: str) -> Judgement:
    """Judge generated text as it came: `judge_answer` of what stands outside thoughts."""
    return judge_answer(task, row, strip_reasoning(text))


def judge_answer(task: Task, row: Row, answer: str) -> Judgement:
    """Judge an answer, without the thoughts before it (every kind but choice). Never raises, and takes time linear in
    the answer's length."""
    answer = unmarked(answer)
    language = row.language or task.language
    if task.kind == "classification":
        names = {label: label for label in task.labels}
        reading = read_label(answer, names, casefold=task.normalisation.casefold)
        return _judged(reading, reading.value == row.expected[0])
    if task.kind == "option":
        reading = read_label(answer, task.option_names(row), casefold=task.normalisation.casefold)
        return _judged(reading, reading.value == row.expected[0])
    if task.kind == "number":
        reading = read_number(answer, language)
        golds = [gold_number(text, language) for text in row.expected]
        read = reading.value
        return _judged(reading, read is not None and any(gold and same_number(read, gold) for gold in golds))
    if task.kind == "math":
        return _judged_maths(row, answer, language)
    if task.kind in ("set", "list"):
        return _judged_items(task, row, answer, language)
    if task.kind == "extraction":
        return _judged_record(task, row, answer, language)
    return _judged_text(task, row, answer)


def judge_choices(row: Row, scores: Sequence[ChoiceScore]) -> tuple[Judgement, bool]:
    """Judge likelihoods: the choice with the highest log-probability per byte is the answer.

    The second value says whether the highest plain log-probability would have been right. Bytes, because they are the
    same for every tokenizer. Equal scores go to the earlier choice. Scores are finite (`unscored` says which are not).
    """
    best = max(scores, key=lambda score: score.logprob_per_byte)
    raw = max(scores, key=lambda score: score.logprob)
    right = best.choice == row.expected[0]
    return Judgement(best.choice, "right" if right else "wrong"), raw.choice == row.expected[0]


def unscored(scores: Sequence[ChoiceScore]) -> str | None:
    """The error of a row where the model's log-probabilities are no numbers to compare, None if all are."""
    bad = next((score for score in scores if not math.isfinite(score.logprob)), None)
    return None if bad is None else f"The model's log-probability of '{bad.choice}' is {bad.logprob}."


def _judged(reading: Reading, right: bool) -> Judgement:
    if reading.value is None:
        return Judgement(None, "refused" if reading.refused else "unparsed")
    return Judgement(reading.value, "right" if right else "wrong")


def _judged_maths(row: Row, answer: str, language: str) -> Judgement:
    reading = read_maths(answer, language)
    tree = None if reading.value is None else formula(reading.value, language)
    if tree is None:
        return _judged(Reading(None, reading.refused), False)
    # Expected answers are written with a decimal point, whatever the language of the answers.
    golds = [formula(text, "en") for text in row.expected]
    return _judged(reading, any(gold is not None and same(tree, gold) for gold in golds))


def _judged_items(task: Task, row: Row, answer: str, language: str) -> Judgement:
    numbers = all(gold_number(text, language) for text in row.expected)
    items, refused = read_items(answer, language, task.normalisation, numbers=numbers)
    if not items:
        return _judged(Reading(None, refused), False)
    expected = row.expected if numbers else [task.normalisation.apply(text) for text in row.expected]
    right = same_items(items, expected, language, ordered=task.kind == "list", numbers=numbers)
    return _judged(Reading(", ".join(items)), right)


def _judged_record(task: Task, row: Row, answer: str, language: str) -> Judgement:
    """A whole record is right if every field is that is not free text. Where none is read, every field is wrong."""
    records, record = task.records, read_record(answer)
    scores = records.scores(record or {}, json.loads(row.expected[0]), task.normalisation, language)
    if record is None:
        refused = refusing(folded(answer).text)
        return Judgement(None, "refused" if refused else "unparsed", dict.fromkeys(scores, 0.0), valid=False)
    right = all(scores[name] == 1 for name in records.judged)
    return Judgement(records.text(record), "right" if right else "wrong", scores, records.fault(record) is None)


def _judged_text(task: Task, row: Row, answer: str) -> Judgement:
    if task.kind == "regex":
        parsed = parse_pattern(answer, task.compiled_pattern, task.normalisation)
    else:
        parsed = parse_text(answer, task.normalisation)
    accepted = [_accepted(task, text) for text in row.expected]
    if task.kind != "contains" and parsed in accepted:
        return Judgement(parsed, "right")
    plain = folded(answer).text
    refused = refusing(plain)
    if task.kind == "contains" and parsed is not None:
        searched = parsed
        if refused:
            parts = "".join(plain[start:end] for start, end in answering_parts(plain))
            searched = task.normalisation.apply(parts)
        if any(_contains(searched, text) for text in accepted):
            return Judgement(parsed, "right")
    return _judged(Reading(None if refused else parsed, refused), False)


def _accepted(task: Task, text: str) -> str:
    if task.kind == "regex":
        captured = parse_pattern(text, task.compiled_pattern, task.normalisation)
        if captured is not None:
            return captured
    return task.normalisation.apply(text)


def _contains(text: str, wanted: str) -> bool:
    """Whether the text has it somewhere; a number there must be the whole number: 5 is not in 15, -5 or 1.5."""
    before = r"(?<!\d)(?<!\d[.,])(?<![-+.])" if wanted[0].isdigit() else ""
    after = r"(?!\d)(?![.,]\d)" if wanted[-1].isdigit() else ""
    return bool(re.search(f"{before}{re.escape(wanted)}{after}", text))
