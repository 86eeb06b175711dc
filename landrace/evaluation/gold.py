"""What a row of a data file expects: its choices, and the accepted answers. What could never be given is refused."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from landrace.data.json_text import strict_loads
from landrace.errors import DataError
from landrace.evaluation.math_answer import formula
from landrace.evaluation.number_answer import gold_number
from landrace.evaluation.template import field_text

if TYPE_CHECKING:
    from landrace.evaluation.task import Task


def row_choices(task: Task, values: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(names, texts) of the row's choices. A list of options is named A, B, C, ..., an object names its own."""
    if task.kind not in ("choice", "option"):
        return (), ()
    if task.fields.choices is None:
        return (), task.labels
    found: Any = values.get(task.fields.choices)
    names: tuple[str, ...] = ()
    if task.kind == "option" and isinstance(found, Mapping):
        names, found = tuple(map(str, found)), list(found.values())
    if not is_texts(found) or len(found) < 2 or len(set(found)) < len(found):
        raise DataError(f"{where}: '{task.fields.choices}' must list at least two different, non-empty choices.")
    if task.kind == "option" and not names:
        if len(found) > len(string.ascii_uppercase):
            raise DataError(
                f"{where}: '{task.fields.choices}' has more than 26 options.", hint="Name them: use an object."
            )
        names = tuple(string.ascii_uppercase[: len(found)])
    return names, tuple(found)


def expected_answers(
    task: Task, values: Mapping[str, Any], names: tuple[str, ...], choices: tuple[str, ...], where: str
) -> tuple[str, ...]:
    """The accepted answers of a row, best first; for a set or list its items; for an option its name; for an
    extraction its record as canonical JSON."""
    name = task.fields.answer
    answer = values.get(name)
    if task.kind == "extraction":
        return (_record(task, answer, f"{where}: '{name}'"),)
    if choices and type(answer) is int:
        return _numbered(task, answer, names, choices, f"{where}: '{name}'")
    if isinstance(answer, list):
        if task.kind in ("classification", "choice", "option") or not answer:
            raise DataError(f"{where}: '{name}' must be one answer, or a list for the other kinds.")
        answers = [field_text(name, {name: item}, where) for item in answer]
    else:
        answers = [field_text(name, values, where)]
        if task.kind in ("set", "list"):
            raise DataError(f"{where}: '{name}' must be a list of items for kind {task.kind}.")
    if task.kind == "option":
        return (_option(answers[0], names, choices, where),)
    if task.kind in ("classification", "choice") and answers[0] not in (allowed := choices or task.labels):
        raise DataError(f"{where}: '{answers[0]}' is not one of the {len(allowed)} answers allowed.")
    return _readable(task, answers, name, where)


def _numbered(task: Task, answer: int, names: tuple[str, ...], choices: tuple[str, ...], what: str) -> tuple[str, ...]:
    """An integer: one of the task's labels if it is written so; else the number of a choice of the row, from 0."""
    written = str(answer)
    if task.fields.choices is None and written in choices:
        return (written,)
    if not 0 <= answer < len(choices):
        if written in names:
            return (written,)
        raise DataError(f"{what} is {answer}, but the choices are numbered 0 to {len(choices) - 1}.")
    for texts in (names, choices):
        if written in texts and texts.index(written) != answer:
            raise DataError(
                f"{what} is {answer}, which is the number of one choice and the text of another.",
                hint=f'Write the answer as text: "{written}" or "{(names or choices)[answer]}".',
            )
    return ((names or choices)[answer],)


def _record(task: Task, answer: Any, what: str) -> str:
    """An expected record as canonical JSON. A file without objects, such as CSV, holds it as JSON text."""
    if isinstance(answer, str):
        try:
            answer = strict_loads(answer)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{what} is not JSON: {error}.") from error
    if (fault := task.records.fault(answer)) is not None:
        raise DataError(f"{what} is not valid under the task's schema: {fault}.")
    return task.records.text(answer)


def _option(answer: str, names: tuple[str, ...], choices: tuple[str, ...], where: str) -> str:
    if answer in names:
        return answer
    if answer in choices:
        return names[choices.index(answer)]
    raise DataError(f"{where}: '{answer}' is neither the name nor the text of an option.")


def _readable(task: Task, answers: list[str], name: str, where: str) -> tuple[str, ...]:
    """Accepted answers; one that could never be read from an answer is refused."""
    if not all(map(task.normalisation.apply, answers)):
        raise DataError(f"{where}: '{name}' holds an answer that is empty once normalised.")
    if task.kind == "number":
        bad = next((text for text in answers if gold_number(text, task.language) is None), None)
        if bad is not None:
            raise DataError(f"{where}: '{name}' is '{bad}', which is no number.", hint="Write 1234.5, 1/3 or 50%.")
    if task.kind == "math":
        bad = next((text for text in answers if formula(text, "en") is None), None)
        if bad is not None:
            raise DataError(
                f"{where}: '{name}' is '{bad}', which kind math cannot parse.",
                hint="Write it in LaTeX, or use kind exact.",
            )
    return tuple(answers)


def is_texts(value: Any) -> bool:
    """Whether the value is a list of texts, none of them empty."""
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)
