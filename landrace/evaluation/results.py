"""What one system answered on one task: row by row, summed up, and stored so that it can be compared later."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from landrace.errors import DataError
from landrace.evaluation.filenames import file_stem
from landrace.evaluation.statistics import Interval, macro_f1, macro_f1_interval, mean_interval, wilson_interval

FORMAT = 1
EXPECTED = "expected"


@dataclass(frozen=True)
class ChoiceScore:
    """One choice as a continuation of the prompt: its natural-log probability, also per UTF-8 byte of the choice."""

    choice: str
    tokens: int
    logprob: float
    logprob_per_byte: float


@dataclass(frozen=True)
class RowResult:
    """One row. `parsed` is None if no answer could be read; `correct` is then False. `error` is the engine's.

    `refused` says that the answer declined to answer. Of an extraction `fields` are the scores of its fields, from 0 to
    1, and `valid` says whether the record keeps to the task's schema.
    """

    id: str
    inputs: Mapping[str, str]
    groups: Mapping[str, str]
    expected: str
    answer: str
    parsed: str | None
    correct: bool
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str | None = None
    error: str | None = None
    choices: tuple[ChoiceScore, ...] = ()
    raw_correct: bool | None = None
    refused: bool = False
    fields: Mapping[str, float] = field(default_factory=dict)
    valid: bool | None = None

    @property
    def verdict(self) -> str:
        """right, wrong, unparsed, refused, or failed where the engine gave no answer."""
        if self.error is not None:
            return "failed"
        if self.correct:
            return "right"
        return "refused" if self.refused else "unparsed" if self.parsed is None else "wrong"


@dataclass(frozen=True)
class GroupScore:
    """Accuracy on the rows where `column` has `value`; the column "expected" is the expected answer."""

    column: str
    value: str
    rows: int
    correct: int
    accuracy: float
    interval: Interval


@dataclass(frozen=True)
class FieldScore:
    """The score of one field of an extraction: the share of rows that have it right, with Wilson's interval; of free
    text the mean F1 of the words, with a bootstrap interval."""

    name: str
    rows: int
    score: float
    interval: Interval


@dataclass(frozen=True)
class Evaluation:
    """One system's answers to one task, with everything needed to repeat them.

    `wall_seconds` runs from the first row's text to the last answer, prompts' tokenisation included, loading and
    parsing not; up to `concurrency` rows were in work at a time. `training_seconds` is what it took to make the system
    from the training rows, None if nothing was trained. `method` is "generate", "likelihood" or "classical". `guided`
    says that answers were held to those that the task knows; `shots` training rows stood in every prompt as examples.
    """

    model: str
    task: str
    kind: str
    method: str
    rows: tuple[RowResult, ...]
    wall_seconds: float
    concurrency: int
    seed: int
    task_sha256: str
    template_sha256: str
    data_sha256: str
    data_source: str
    data_rows: int
    adapter: str | None = None
    guided: bool = False
    chat_template_sha256: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    shots: int = 0
    training_seconds: float | None = None
    training_data_sha256: str | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def correct(self) -> int:
        return sum(row.correct for row in self.rows)

    @property
    def accuracy(self) -> float:
        return self.correct / len(self.rows)

    @cached_property
    def interval(self) -> Interval:
        """Wilson's 95% interval of the accuracy."""
        return wilson_interval(self.correct, len(self.rows))

    @property
    def has_labels(self) -> bool:
        """Whether answers come from one fixed set of labels, so that F1 and confusions mean something."""
        return self.kind == "classification"

    @cached_property
    def macro_f1(self) -> float | None:
        """Macro F1 of a classification, else None."""
        return macro_f1(*self._labels()) if self.has_labels else None

    @cached_property
    def macro_f1_interval(self) -> Interval | None:
        """Bootstrap 95% interval of the macro F1 of a classification, else None."""
        return macro_f1_interval(*self._labels(), seed=self.seed) if self.has_labels else None

    def _labels(self) -> tuple[list[str], list[str | None]]:
        return [row.expected for row in self.rows], [row.parsed for row in self.rows]

    @property
    def raw_accuracy(self) -> float | None:
        """Likelihood only: the accuracy if the plain log-probability decided (lm-eval's `acc`).

        The accuracy itself is by log-probability per byte, which lm-eval calls `acc_bytes`.
        """
        return sum(bool(row.raw_correct) for row in self.rows) / len(self.rows) if self.method == "likelihood" else None

    @property
    def character_accuracy(self) -> float | None:
        """Likelihood only: the accuracy if the log-probability per character decided (lm-eval's `acc_norm`)."""
        if self.method != "likelihood":
            return None
        return sum(_best_per_character(row) == row.expected for row in self.rows) / len(self.rows)

    @property
    def unparsed(self) -> int:
        """Rows answered, but with nothing that could be read as an answer, refusals apart. They count as wrong."""
        return sum(row.verdict == "unparsed" for row in self.rows)

    @property
    def refused(self) -> int:
        """Rows where the model declined to answer. They count as wrong."""
        return sum(row.verdict == "refused" for row in self.rows)

    @property
    def capped(self) -> int:
        """Rows whose answer was cut off at max_tokens."""
        return sum(row.finish_reason == "length" for row in self.rows)

    @property
    def errors(self) -> int:
        """Rows that the engine refused or failed. They count as wrong."""
        return sum(row.error is not None for row in self.rows)

    @property
    def prompt_tokens(self) -> int:
        return sum(row.prompt_tokens for row in self.rows)

    @property
    def cached_prompt_tokens(self) -> int:
        """Prompt tokens that the prefix cache spared the engine."""
        return sum(row.cached_prompt_tokens for row in self.rows)

    @property
    def completion_tokens(self) -> int:
        return sum(row.completion_tokens for row in self.rows)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens computed (prompt tokens not taken from the cache, and answer tokens) a second; None without tokens."""
        computed = self.prompt_tokens - self.cached_prompt_tokens + self.completion_tokens
        return computed / self.wall_seconds if self.prompt_tokens and self.wall_seconds > 0 else None

    @property
    def seconds_per_answer(self) -> float:
        """Wall seconds over rows: machine time an answer at the stated concurrency, not the wait of one caller."""
        return self.wall_seconds / len(self.rows)

    def by_group(self, column: str) -> tuple[GroupScore, ...]:
        """Accuracies per value of a group column, or of "expected", in order of the values."""
        return by_group(self.rows, column)

    @cached_property
    def by_field(self) -> tuple[FieldScore, ...]:
        """The scores of an extraction's fields, of those that the system answers at all; rows without one score 0."""
        names = dict.fromkeys(name for row in self.rows for name in row.fields)
        return tuple(self._field_score(name, [row.fields.get(name, 0.0) for row in self.rows]) for name in names)

    def _field_score(self, name: str, scores: list[float]) -> FieldScore:
        if set(scores) <= {0.0, 1.0}:
            interval = wilson_interval(int(sum(scores)), len(scores))
        else:
            interval = mean_interval(scores, seed=self.seed)
        return FieldScore(name, len(scores), sum(scores) / len(scores), interval)

    @property
    def partial(self) -> bool:
        """Whether the system answers some fields of an extraction and cannot give whole records, as a classifier."""
        return self.kind == "extraction" and self.method == "classical" and self.schema_valid is None

    @property
    def schema_valid(self) -> int | None:
        """Rows whose answer keeps to an extraction's schema; None where nothing was judged by one."""
        judged = [row.valid for row in self.rows if row.valid is not None]
        return sum(judged) if judged else None

    @property
    def group_columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for row in self.rows for name in row.groups))

    def summary(self) -> dict[str, Any]:
        """The scores and their provenance as JSON values, without the rows."""
        stored = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "rows"}
        return {
            **stored,
            "sampling": dict(self.sampling),
            "provenance": dict(self.provenance),
            "answered_rows": len(self.rows),
            "correct": self.correct,
            "accuracy": self.accuracy,
            "accuracy_95": [self.interval.low, self.interval.high],
            "macro_f1": self.macro_f1,
            "macro_f1_95": self.macro_f1_interval and [self.macro_f1_interval.low, self.macro_f1_interval.high],
            "raw_accuracy": self.raw_accuracy,
            "character_accuracy": self.character_accuracy,
            "fields": {item.name: item.score for item in self.by_field},
            "fields_95": {item.name: [item.interval.low, item.interval.high] for item in self.by_field},
            "schema_valid": self.schema_valid,
            "unparsed": self.unparsed,
            "refused": self.refused,
            "capped": self.capped,
            "errors": self.errors,
            "prompt_tokens": self.prompt_tokens,
            "cached_prompt_tokens": self.cached_prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "tokens_per_second": self.tokens_per_second,
            "seconds_per_answer": self.seconds_per_answer,
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON values from which `evaluation_from_dict` makes an equal Evaluation."""
        return {"format": FORMAT, **_adapter().dump_python(self, mode="json")}

    def save(self, folder: Path) -> Path:
        """Write `<model>.evaluation.json` (the scores) and `<model>.rows.jsonl` (a line a row); returns the former.

        An earlier evaluation of the same model is replaced, another model's never.
        """
        folder.mkdir(parents=True, exist_ok=True)
        stem = file_stem(self.model)
        if _is_of_another(folder / f"{stem}.evaluation.json", self.model):
            stem = f"{stem}-{hashlib.sha256(self.model.encode()).hexdigest()[:8]}"
        stored = self.to_dict()
        lines = [json.dumps(row) for row in stored.pop("rows")]
        _write(folder / f"{stem}.rows.jsonl", "".join(line + "\n" for line in lines))
        path = folder / f"{stem}.evaluation.json"
        _write(path, json.dumps({**self.summary(), **stored, "rows_file": f"{stem}.rows.jsonl"}, indent=1) + "\n")
        return path


def _best_per_character(row: RowResult) -> str | None:
    if not row.choices:
        return None
    return max(row.choices, key=lambda score: score.logprob / len(score.choice)).choice


def by_group(rows: tuple[RowResult, ...], column: str) -> tuple[GroupScore, ...]:
    """Accuracy with Wilson's interval per value of `column` ("expected" or a group column)."""
    outcomes: dict[str, list[bool]] = {}
    for row in rows:
        value = row.expected if column == EXPECTED else row.groups.get(column)
        if value is not None:
            outcomes.setdefault(value, []).append(row.correct)
    return tuple(_group_score(column, value, outcomes[value]) for value in sorted(outcomes))


def _group_score(column: str, value: str, outcomes: list[bool]) -> GroupScore:
    correct, total = sum(outcomes), len(outcomes)
    return GroupScore(column, value, total, correct, correct / total, wilson_interval(correct, total))


def load_evaluation(path: Path) -> Evaluation:
    """Read what `Evaluation.save` wrote. A damaged file is a DataError."""
    summary = _read_json(path, path.name)
    name = summary.get("rows_file")
    if not isinstance(name, str) or Path(name).name != name:
        raise DataError(f"{path.name} names no rows file beside it.")
    lines = _read_text(path.parent / name).splitlines()
    rows = [_parse(line, f"{name}, line {number}") for number, line in enumerate(lines, start=1)]
    stored = {item.name for item in fields(Evaluation)} | {"format"}
    return evaluation_from_dict({**{key: summary[key] for key in stored & set(summary)}, "rows": rows}, path.name)


def evaluation_from_dict(value: Mapping[str, Any], source: str = "evaluation") -> Evaluation:
    """The Evaluation that `to_dict` wrote; a DataError if it is not one."""
    if value.get("format") != FORMAT:
        raise DataError(f"{source} is not an evaluation of format {FORMAT}.", hint="Evaluate again with this version.")
    body = json.dumps({key: item for key, item in value.items() if key != "format"})
    try:
        evaluation = _adapter().validate_json(body, strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{source} is not an evaluation: {place}: {first['msg']}.") from error
    if not evaluation.rows:
        raise DataError(f"{source} has no rows.")
    return evaluation


@cache
def _adapter() -> TypeAdapter[Evaluation]:
    return TypeAdapter(Evaluation)


def _is_of_another(path: Path, model: str) -> bool:
    """Whether the file is the stored evaluation of a model of another name."""
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("model", model) != model)
    except (OSError, ValueError, AttributeError):
        return False


def _read_json(path: Path, source: str) -> dict[str, Any]:
    value = _parse(_read_text(path), source)
    if not isinstance(value, dict):
        raise DataError(f"{source} is not an evaluation.")
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is damaged: not UTF-8 text (byte {error.start}).") from error


def _parse(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source} is damaged: {error}.") from error


def _write(path: Path, text: str) -> None:
    """All of the file or none of it, also when the process is killed half-way."""
    partial = path.with_name(path.name + ".partial")
    # Half a surrogate pair, as in a file name that is not UTF-8, becomes what JSON writes for it.
    with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
