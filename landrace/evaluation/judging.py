"""Whether an answer is right, by the rules of the task's kind (see `task`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from landrace.evaluation.parsing import parse_label, parse_pattern, parse_text
from landrace.evaluation.results import ChoiceScore
from landrace.evaluation.rows import Row
from landrace.evaluation.task import Task


@dataclass(frozen=True)
class Judgement:
    """`parsed` is None if no answer could be read; `correct` is then False."""

    parsed: str | None
    correct: bool


def judge_answer(task: Task, row: Row, answer: str) -> Judgement:
    """Judge generated text (every kind but choice)."""
    parsed = _parse(task, answer)
    if parsed is None:
        return Judgement(None, False)
    if task.kind == "classification":
        return Judgement(parsed, parsed == row.expected[0])
    accepted = [_accepted(task, text) for text in row.expected]
    if task.kind == "contains":
        return Judgement(parsed, any(text in parsed for text in accepted))
    return Judgement(parsed, parsed in accepted)


def judge_choices(row: Row, scores: Sequence[ChoiceScore]) -> tuple[Judgement, bool]:
    """Judge likelihoods: the choice with the highest log-probability per byte is the answer.

    The second value says whether the highest plain log-probability would have been right. Bytes, because they are the
    same for every tokenizer. Equal scores go to the earlier choice.
    """
    best = max(scores, key=lambda score: score.logprob_per_byte)
    raw = max(scores, key=lambda score: score.logprob)
    return Judgement(best.choice, best.choice == row.expected[0]), raw.choice == row.expected[0]


def _parse(task: Task, answer: str) -> str | None:
    if task.kind == "classification":
        return parse_label(answer, task.labels, task.normalisation)
    if task.kind == "regex":
        return parse_pattern(answer, task.compiled_pattern, task.normalisation)
    return parse_text(answer, task.normalisation)


def _accepted(task: Task, text: str) -> str:
    if task.kind == "regex":
        captured = parse_pattern(text, task.compiled_pattern, task.normalisation)
        if captured is not None:
            return captured
    return task.normalisation.apply(text)
