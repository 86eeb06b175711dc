"""Records: JSON objects under a schema, read out of answers and compared with the expected ones field by field."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

from landrace.errors import OptionError
from landrace.evaluation.number_answer import gold_number
from landrace.evaluation.parsing import WORD, Normalisation

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

MAX_DEPTH = 64
_OPENING = re.compile(r'\{(?=\s*["}])')
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)
_DATE = re.compile(r"\s*(\d{4})\s*[-/.年]\s*(\d{1,2})\s*[-/.月]\s*(\d{1,2})日?(?:[T ].*)?\s*", re.DOTALL)


@dataclass(frozen=True)
class RecordSchema:
    """A JSON Schema (2020-12) of an object, and those of its fields that are `free_text`.

    The fields are the schema's properties, in their order. A schema that is none, or not of an object with properties,
    and a free text that is no field, are OptionErrors.
    """

    schema: Mapping[str, Any]
    free_text: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError

        try:
            Draft202012Validator.check_schema(self.schema)
        except SchemaError as error:
            raise OptionError(f"The task's schema is no JSON Schema: {error.message}.") from error
        properties = self.schema.get("properties")
        if self.schema.get("type") != "object" or not properties:
            raise OptionError("The task's schema must be that of an object with properties: they are the fields.")
        unknown = next((name for name in self.free_text if name not in properties), None)
        if unknown is not None:
            raise OptionError(f"The task's free_text names '{unknown}', which is no property of the schema.")
        if not self.judged:
            raise OptionError("The task's free_text leaves no field to judge a record by.")

    @property
    def properties(self) -> Mapping[str, Any]:
        """The fields and their schemas."""
        properties: Mapping[str, Any] = self.schema["properties"]
        return properties

    @property
    def judged(self) -> tuple[str, ...]:
        """The fields that a whole record is judged by: all but the free text."""
        return tuple(name for name in self.properties if name not in self.free_text)

    @property
    def labelled(self) -> tuple[str, ...]:
        """The judged fields whose values are an `enum` of texts."""
        return tuple(name for name in self.judged if _is_enum(self.properties[name]))

    @cached_property
    def _validator(self) -> Draft202012Validator:
        from jsonschema import Draft202012Validator

        return Draft202012Validator(self.schema, format_checker=Draft202012Validator.FORMAT_CHECKER)

    def fault(self, record: Any) -> str | None:
        """What first makes a value invalid under the schema, formats such as dates included; None if it is valid."""
        error = next(iter(self._validator.iter_errors(record)), None)
        if error is None:
            return None
        place = ".".join(map(str, error.absolute_path))
        return f"{place}: {error.message}" if place else str(error.message)

    def text(self, record: Mapping[str, Any]) -> str:
        """A record as a guide of the schema lets a model write it: keys in the schema's order, spaces as json.dumps."""
        text = json.dumps(_ordered(record, self.schema), ensure_ascii=False)
        # Half a surrogate pair, which JSON can spell and UTF-8 cannot, stays as JSON spells it.
        return text.encode("utf-8", "backslashreplace").decode("utf-8")

    def scores(
        self, read: Mapping[str, Any], expected: Mapping[str, Any], normalisation: Normalisation, language: str
    ) -> dict[str, float]:
        """Of each field 1 or 0: whether the value read equals the expected one, by the field's type. Of a free text the
        `token_f1`. A field that is missing counts as null."""
        return {
            name: token_f1(read.get(name), expected.get(name))
            if name in self.free_text
            else float(_same(read.get(name), expected.get(name), schema, normalisation, language))
            for name, schema in self.properties.items()
        }


def read_record(answer: str) -> dict[str, Any] | None:
    """The last JSON object that an answer holds, alone, in a code block or in prose; None without one.

    Takes time linear in the answer's length, and never raises.
    """
    found = None
    for text in _objects(answer):
        try:
            found = json.loads(text, strict=False, parse_constant=_refuse)
        except ValueError:
            continue
    return found


def token_f1(read: Any, expected: Any) -> float:
    """Harmonic mean of precision and recall of the words, as bags: Rajpurkar et al. (2016), "SQuAD", EMNLP.

    A Chinese or Japanese character is a word. Where either side has no words (null as well) both must have none.
    """
    ours, theirs = (Counter(_words(value)) for value in (read, expected))
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def _words(value: Any) -> list[str]:
    return [] if value is None else re.findall(WORD, str(value).casefold())


def _objects(text: str) -> Iterator[str]:
    """The outermost {...} of a text that begin like JSON, up to one that never closes."""
    end: int | None = 0
    while end is not None and (opening := _OPENING.search(text, end)):
        end = _closing(text, opening.start())
        if end is not None:
            yield text[opening.start() : end]


def _closing(text: str, start: int) -> int | None:
    """Behind what closes the brace at `start`; None where nothing does, or where more than MAX_DEPTH are open."""
    depth = 0
    for piece in _PIECE.finditer(text, start):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(piece.group(), 0)
        if depth == 0:
            return piece.end()
        if depth > MAX_DEPTH:
            return None
    return None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _ordered(value: Any, schema: Any) -> Any:
    """`value` with the keys of its objects in the order of their schemas; keys that these do not name come last."""
    if isinstance(value, Mapping):
        properties = schema.get("properties", {}) if isinstance(schema, Mapping) else {}
        names = [*(name for name in properties if name in value), *(name for name in value if name not in properties)]
        return {name: _ordered(value[name], properties.get(name)) for name in names}
    if isinstance(value, list):
        items = schema.get("items") if isinstance(schema, Mapping) else None
        return [_ordered(item, items) for item in value]
    return value


def _same(read: Any, expected: Any, schema: Any, normalisation: Normalisation, language: str) -> bool:
    """Whether two values of a field are equal: numbers by value, dates as dates, texts normalised, lists in order."""
    schema = schema if isinstance(schema, Mapping) else {}
    if expected is None or isinstance(expected, bool):
        return read is expected
    if read is None or isinstance(read, bool):
        return False
    if isinstance(expected, int | float):
        return isinstance(read, int | float | str) and _same_number(str(read), str(expected), language)
    if isinstance(expected, str):
        return isinstance(read, int | float | str) and _same_text(str(read), expected, schema, normalisation)
    if isinstance(expected, list):
        items = schema.get("items")
        return (
            isinstance(read, list)
            and len(read) == len(expected)
            and all(_same(*pair, items, normalisation, language) for pair in zip(read, expected, strict=True))
        )
    properties = schema.get("properties", {})
    return isinstance(read, Mapping) and all(
        _same(read.get(name), expected.get(name), properties.get(name), normalisation, language)
        for name in {**expected, **read}
    )


def _same_number(read: str, expected: str, language: str) -> bool:
    ours, gold = gold_number(read, language), gold_number(expected, "en")
    return ours is not None and gold is not None and ours.value == gold.value


def _same_text(read: str, expected: str, schema: Mapping[str, Any], normalisation: Normalisation) -> bool:
    if schema.get("format") == "date":
        ours, theirs = _date(read), _date(expected)
        return ours is not None and ours == theirs
    return normalisation.apply(read) == normalisation.apply(expected)


def _date(text: str) -> date | None:
    match = _DATE.fullmatch(text)
    try:
        return None if match is None else date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return None


def _is_enum(schema: Any) -> bool:
    values = schema.get("enum", ()) if isinstance(schema, Mapping) else ()
    return bool(values) and all(isinstance(value, str) for value in values)
