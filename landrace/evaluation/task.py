"""Tasks on one's own data: what is asked, of which rows, and when an answer is right.

A task file is JSON or TOML; `data` and `train` are paths relative to it:

    {"name": "support", "kind": "classification", "data": "test.jsonl", "train": "train.jsonl",
     "template": "Which intent is this ticket?\\n\\n{text}", "labels": ["refund", "check_in"],
     "fields": {"id": "id", "answer": "intent", "groups": ["language"]}}

Kinds, and when an answer is right (reasoning in <think> tags is dropped first, both sides are normalised):

- classification: it gives the expected label; option: the letter or the text of the row's right option;
- number, math: it gives an equal number or formula; set, list: the same items, in any order or in this one;
- exact: it equals an accepted answer; contains: it contains one;
- regex: what `pattern`'s first group captures at its last match equals an accepted answer, or what the pattern
  captures in an accepted answer that it matches;
- extraction: it holds a JSON object whose every field, but for free text, equals that of the expected record;
- choice: of the row's `choices` (or of `labels`), the expected one is the most likely continuation of the prompt.

How an answer is read is stated in docs/evaluate.md.
"""

from __future__ import annotations

import codecs
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from landrace.data import DataRow, check_values, read_table
from landrace.data.columns import check_map
from landrace.data.json_text import read_json_object, strict_loads
from landrace.errors import DataError, OptionError
from landrace.evaluation.gold import expected_answers, is_texts, row_choices
from landrace.evaluation.labels import label_key
from landrace.evaluation.parsing import Normalisation, strip_decoration
from landrace.evaluation.records import RecordSchema
from landrace.evaluation.rows import Row, TaskData, check_ids, file_sha256, json_sha256
from landrace.evaluation.template import PromptTemplate, field_text, field_texts
from landrace.text.guides import Guide

Kind = Literal[
    "classification", "option", "number", "math", "set", "list", "exact", "regex", "contains", "choice", "extraction"
]
Mode = Literal["chat", "plain"]
GUIDED_KINDS: tuple[Kind, ...] = ("classification", "option", "extraction")
"""Kinds whose answers have a form that is known beforehand, so that a model can be held to it."""

LABELS_FIELD = "labels"
OPTIONS_FIELD = "choices"
DEFAULT_LANGUAGE = "en"

_HEAD_BYTES = 1 << 20


@dataclass(frozen=True)
class Fields:
    """Which fields of a row hold what. Without an id field, the line number is the id."""

    answer: str = "answer"
    id: str | None = None
    groups: tuple[str, ...] = ()
    choices: str | None = None
    language: str | None = None


@dataclass(frozen=True)
class Task:
    """A frozen, checked description; a value that cannot be honoured is an OptionError.

    `{labels}` in the template stands for the task's labels, joined by ", ". `answer_prefix` opens the answer in plain
    mode (" " after a prompt that ends in "Answer:"), in training rows and choices alike. `{choices}` of an option task
    stands for its options, a line each. `language` (ISO 639) decides how numbers are written, where a row does not say.
    `map` reads columns of the data files under other names, old to new. `schema` is the JSON Schema of an extraction's
    records, `free_text` names the fields that are judged by their words and not as right or wrong.
    """

    name: str
    kind: Kind
    template: str
    data: Path | None = None
    train: Path | None = None
    map: Mapping[str, str] = field(default_factory=dict)
    fields: Fields = Fields()
    system: str | None = None
    mode: Mode = "chat"
    labels: tuple[str, ...] = ()
    pattern: str | None = None
    language: str = DEFAULT_LANGUAGE
    answer_prefix: str = ""
    max_tokens: int = 64
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    free_text: tuple[str, ...] = ()
    normalisation: Normalisation = field(default_factory=Normalisation)

    def __post_init__(self) -> None:
        _check(bool(self.name.strip()), "name", "must not be empty")
        _check(self.kind in get_args(Kind), "kind", f"must be one of {', '.join(get_args(Kind))}, not '{self.kind}'")
        _check(self.mode in get_args(Mode), "mode", f"must be chat or plain, not '{self.mode}'")
        _check(self.max_tokens >= 1, "max_tokens", f"must be at least 1, not {self.max_tokens}")
        _check(all(self.stop), "stop", "must not hold an empty string")
        _check(bool(self._template_fields), "template", "names no {field} of the rows")
        _check(self.mode == "chat" or self.system is None, "system", "needs chat mode")
        _check(self.mode == "plain" or not self.answer_prefix, "answer_prefix", "needs plain mode")
        check_map(self.map)
        self._check_labels()
        self._check_pattern()
        self._check_schema()

    def _check_labels(self) -> None:
        has_choices = self.fields.choices is not None
        _check(
            self.kind in ("choice", "option") or not has_choices,
            "fields.choices",
            "belongs to kind choice or option only",
        )
        _check(self.kind != "option" or has_choices, "fields.choices", "must be given for kind option")
        if self.kind == "choice":
            _check(has_choices != bool(self.labels), "labels", "or fields.choices must be given, not both")
        _check(self.kind != "classification" or len(self.labels) > 1, "labels", "must name at least two labels")
        applied = map(self.normalisation.apply, self.labels)
        _check(all(applied), "labels", "must not hold a label that is empty once normalised")
        plain = [strip_decoration(label_key(label, self.normalisation.casefold)) for label in self.labels]
        _check(len(set(plain)) == len(plain), "labels", "must differ from one another once normalised")

    def _check_pattern(self) -> None:
        _check((self.kind == "regex") == (self.pattern is not None), "pattern", "goes with kind regex, and only there")
        if self.pattern is not None:
            _check(self.compiled_pattern.groups >= 1, "pattern", "needs a capture group around the answer")

    def _check_schema(self) -> None:
        given = self.schema is not None
        _check((self.kind == "extraction") == given, "schema", "goes with kind extraction, and only there")
        _check(given or not self.free_text, "free_text", "needs a schema")
        if given:
            _ = self.records  # raises for what is no schema of a record

    @cached_property
    def records(self) -> RecordSchema:
        """The records of an extraction; an OptionError for what is no schema of one."""
        return RecordSchema(self.schema or {}, self.free_text)

    @cached_property
    def compiled_pattern(self) -> re.Pattern[str]:
        """The compiled `pattern`; an OptionError if it is not a regular expression."""
        try:
            return re.compile(self.pattern or "")
        except re.error as error:
            raise OptionError(f"The task's pattern is not a regular expression: {error}.") from error

    @cached_property
    def prompt(self) -> PromptTemplate:
        """The parsed template."""
        return PromptTemplate(self.template)

    @property
    def _template_fields(self) -> tuple[str, ...]:
        return tuple(name for name in self.prompt.fields if not self._is_of_task(name))

    def _is_of_task(self, name: str) -> bool:
        """Whether a place of the template is filled by the task, not by a column."""
        return self._is_labels(name) or (name == OPTIONS_FIELD and self.kind == "option")

    def _is_labels(self, name: str) -> bool:
        return name == LABELS_FIELD and bool(self.labels)

    @cached_property
    def template_sha256(self) -> str:
        """Hash of everything that shapes the prompt text, before the model's own chat template."""
        labels = self.labels if any(map(self._is_labels, self.prompt.fields)) else ()
        return json_sha256([self.mode, self.system, self.template, self.answer_prefix, labels])

    @cached_property
    def sha256(self) -> str:
        """Hash of the whole task but for the places of its files: the same hash asks and judges the same way."""
        # What came later is left out where it is not used, so that the hashes of earlier tasks stay what they were.
        later = [key for key in ("map", "schema", "free_text") if not getattr(self, key)]
        return json_sha256({key: value for key, value in asdict(self).items() if key not in ("data", "train", *later)})

    def prompt_text(self, row: Row) -> str:
        """The filled template: the user's message in chat mode, the whole prompt in plain mode."""
        values = dict(row.inputs)
        if self.labels:
            values[LABELS_FIELD] = ", ".join(self.labels)
        if self.kind == "option":
            values[OPTIONS_FIELD] = "\n".join(map("{}. {}".format, row.choice_names, row.choices))
        return self.prompt.render(values)

    def answer_text(self, row: Row) -> str:
        """The best accepted answer as a model would write it."""
        return ", ".join(row.expected) if self.kind in ("set", "list") else row.expected[0]

    def guide(self, row: Row) -> Guide:
        """What an answer to a row is held to where answers are guided: a label, the name of an option, or a record.
        OptionError for a kind that is not one of GUIDED_KINDS."""
        self.check_guided()
        if self.kind == "extraction":
            return Guide.of_schema(self.records.schema)
        answers = row.choice_names if self.kind == "option" else self.labels
        return Guide.of_choices([self.answer_prefix + answer for answer in answers])

    def check_guided(self) -> None:
        """OptionError for a kind whose answers cannot be guided."""
        if self.kind not in GUIDED_KINDS:
            reason = (
                "compares the likelihoods of its choices, and is never answered with anything else"
                if self.kind == "choice"
                else "has no list of answers that a model could be held to"
            )
            raise OptionError(
                f"The task '{self.name}' cannot be guided: kind {self.kind} {reason}.",
                hint=f"Guided kinds are {', '.join(GUIDED_KINDS)}.",
            )

    def option_names(self, row: Row) -> dict[str, str]:
        """What may be written for each option of a row: its text or its name, to its name."""
        return {**dict(zip(row.choices, row.choice_names, strict=True)), **{name: name for name in row.choice_names}}

    def messages(self, row: Row, examples: Sequence[Row] = ()) -> list[dict[str, str]]:
        """The chat messages up to the question (chat mode); before it `examples` as questions that were answered."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        turns = [turn for example in examples for turn in self._turns(example)]
        return [*system, *turns, {"role": "user", "content": self.prompt_text(row)}]

    def _turns(self, row: Row) -> list[dict[str, str]]:
        """A question and its answer."""
        return [
            {"role": "user", "content": self.prompt_text(row)},
            {"role": "assistant", "content": self.answer_text(row)},
        ]

    def plain_prompt(self, row: Row, examples: Sequence[Row] = ()) -> str:
        """The prompt of plain mode; before it `examples` with their answers, an empty line behind each."""
        shown = [self.prompt_text(item) + self.answer_prefix + self.answer_text(item) + "\n\n" for item in examples]
        return "".join(shown) + self.prompt_text(row)

    def to_training_rows(self, data: TaskData) -> list[dict[str, Any]]:
        """The rows as training examples: the very prompt that `evaluate` asks, and the first accepted answer.

        Chat mode gives {"messages": [...]}, plain mode {"prompt": ..., "completion": ...}.
        """
        return [self._training_row(row) for row in data.rows]

    def _training_row(self, row: Row) -> dict[str, Any]:
        if self.mode == "plain":
            return {"prompt": self.prompt_text(row), "completion": self.answer_prefix + self.answer_text(row)}
        return {"messages": [*self.messages(row), {"role": "assistant", "content": self.answer_text(row)}]}

    def with_map(self, names: Mapping[str, str]) -> Task:
        """The task with further columns under other names."""
        return replace(self, map={**self.map, **names}) if names else self

    def load(self, path: Path | None = None) -> TaskData:
        """Read the held-out rows (`data`), or those of another file of the same form, such as `train`."""
        path = path or self.data
        if path is None:
            raise OptionError(f"The task '{self.name}' names no data file.", hint="Set data, or pass a path.")

        def parse(row: DataRow) -> Row:
            return self._row(row.values, row.where)

        rows = tuple(read_table(path, parse, names=self.map))
        return self._checked_data(TaskData(rows, file_sha256(path), path.name))

    def load_train(self) -> TaskData:
        """Read the training rows (`train`)."""
        if self.train is None:
            raise OptionError(f"The task '{self.name}' names no training file.", hint="Set train in the task.")
        return self.load(self.train)

    def examples(self, count: int, seed: int) -> tuple[Row, ...]:
        """`count` training rows, drawn by `seed`, to show a model before it is asked; an OptionError if there are
        fewer."""
        if count == 0:
            return ()
        train = self.load_train()
        if not 0 < count <= len(train.rows):
            raise OptionError(f"shots must be from 0 to the {len(train.rows)} training rows, not {count}.")
        return train.sample(count, seed).rows

    def from_rows(self, rows: Iterable[Mapping[str, Any]], source: str = "rows") -> TaskData:
        """The same checks on rows that are in memory; the hash is of their JSON."""
        values = [dict(row) for row in rows]
        for number, row in enumerate(values, start=1):
            check_values(row, f"{source}, row {number}")
        checked = tuple(self._row(row, f"{source}, row {number}") for number, row in enumerate(values, start=1))
        return self._checked_data(TaskData(checked, json_sha256(values), source))

    def _checked_data(self, data: TaskData) -> TaskData:
        if not data.rows:
            raise DataError(f"{data.source} has no rows.")
        check_ids(data.rows, data.source)
        return data

    def _row(self, values: Mapping[str, Any], where: str) -> Row:
        names, choices = row_choices(self, values, where)
        others = tuple(name for name in self.prompt.other_names if name in values)
        return Row(
            id=field_text(self.fields.id, values, where) if self.fields.id else where.rpartition(", ")[2],
            inputs=field_texts((*self._template_fields, *others), values, where),
            expected=expected_answers(self, values, names, choices, where),
            groups=field_texts(self.fields.groups, values, where),
            choices=choices,
            choice_names=names,
            language=field_text(self.fields.language, values, where) if self.fields.language else "",
        )


def load_task(path: str | Path) -> Task:
    """Read a task file (.json or .toml). An unknown key is refused by name."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        value = tomllib.loads(text) if path.suffix == ".toml" else strict_loads(text)
    except OSError as error:
        raise DataError(f"The task file {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"The task file {path} is not valid {path.suffix[1:] or 'JSON'}: {error}.") from error
    return task_from_dict(value, base=path.parent, source=path.name)


def is_task_file(path: Path) -> bool:
    """Whether a file describes a task and does not hold rows: a .toml, or a .json that is one object with a template or
    on several lines."""
    if path.suffix != ".json":
        return path.suffix == ".toml"
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()
    except OSError:
        return True
    line = head.partition(b"\n")[0]
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return head.startswith(b"{") and b"\n" in head
    return isinstance(value, dict) and "template" in value


def task_from_dict(value: Any, *, base: Path = Path(), source: str = "task") -> Task:
    """A task from the mapping that a task file holds; its paths are relative to `base`."""
    given = _keys(value, Task, source)
    for key in ("name", "kind", "template"):
        if key not in given:
            raise DataError(f"{source}: the key '{key}' is missing.")
    for key in ("name", "kind", "template", "system", "mode", "pattern", "language", "answer_prefix", "data", "train"):
        _typed(given, key, str, "text", source)
    _typed(given, "max_tokens", int, "a whole number", source)
    for key in ("data", "train"):
        if key in given:
            given[key] = base / given[key]
    for key in ("labels", "stop", "free_text"):
        _texts(given, key, source)
    if "schema" in given:
        given["schema"] = _schema(given["schema"], base, source)
    _check_names(given.get("map", {}), source)
    given["fields"] = _fields(given.get("fields", {}), f"{source}, fields")
    given["normalisation"] = _normalisation(given.get("normalisation", {}), f"{source}, normalisation")
    return Task(**given)


def _schema(value: Any, base: Path, source: str) -> dict[str, Any]:
    """A schema that stands in the task, or in a file of its own."""
    if isinstance(value, str):
        return read_json_object(base / value, "schema")
    if not isinstance(value, dict):
        raise DataError(f"{source}: 'schema' must be a JSON Schema, or the path of a file that holds one.")
    return value


def _check_names(value: Any, source: str) -> None:
    if not isinstance(value, dict) or not all(isinstance(new, str) and new for new in value.values()):
        raise DataError(f"{source}: 'map' must be an object of names: the file's own, and the one to read it as.")


def _fields(value: Any, source: str) -> Fields:
    given = _keys(value, Fields, source)
    for key in ("answer", "id", "choices", "language"):
        _typed(given, key, str, "text", source)
    _texts(given, "groups", source)
    return Fields(**given)


def _normalisation(value: Any, source: str) -> Normalisation:
    given = _keys(value, Normalisation, source)
    for key in given:
        _typed(given, key, bool, "true or false", source)
    return Normalisation(**given)


def _keys(value: Any, shape: type[Any], source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{source}: must be an object, not {type(value).__name__}.")
    known = [item.name for item in fields(shape)]
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise DataError(f"{source}: unknown key '{unknown[0]}'.", hint=f"The keys are {', '.join(known)}.")
    return dict(value)


def _typed(given: dict[str, Any], key: str, kind: type, words: str, source: str) -> None:
    if key in given and type(given[key]) is not kind:
        raise DataError(f"{source}: '{key}' must be {words}, not {type(given[key]).__name__}.")


def _texts(given: dict[str, Any], key: str, source: str) -> None:
    if key in given:
        if not is_texts(given[key]):
            raise DataError(f"{source}: '{key}' must be a list of non-empty texts.")
        given[key] = tuple(given[key])


def _check(holds: bool, option: str, words: str) -> None:
    if not holds:
        raise OptionError(f"The task's {option} {words}.")
