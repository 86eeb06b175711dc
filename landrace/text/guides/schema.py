"""What of JSON Schema a guide enforces; everything else is refused by its name and place.

A keyword of 2020-12 is one of three things here: enforced, so that every answer is valid; an annotation, which has no
force by the standard and is left out; or refused. So nothing that a schema asks for is passed over in silence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, NoReturn

from landrace.errors import RequestError
from landrace.text.guides.dates import PATTERNS as DATES
from landrace.text.guides.meeting import MOST as MOST_MEETING
from landrace.text.guides.meeting import most_meeting

MAX_DEPTH = 40
"""Of schemas in schemas. The library reads JSON that is nested three times as deep."""
MAX_SCHEMAS = 4096
"""All places of a schema together."""
MAX_PROPERTIES = 512
"""Of one object. What the library does with them grows with their square: 512 take it 50 ms, 5000 eight seconds."""
MAX_VALUES = 16384
"""Of all lists of values together: 20,000 take 140 ms."""
EXACT = 2**53
"""Whole numbers up to here are what they are in the library's arithmetic."""

DIALECTS = ("https://json-schema.org/draft/2020-12/schema", "https://json-schema.org/draft/2019-09/schema",
            "http://json-schema.org/draft-07/schema", "http://json-schema.org/draft-06/schema")  # fmt: skip
"""Of the keywords that are enforced, all of them say the same."""
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
ANNOTATIONS = frozenset(
    ("$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
     "contentEncoding", "contentMediaType", "contentSchema", "$anchor", "discriminator")
)  # fmt: skip
"""Without force by the standard; OpenAPI's discriminator is a hint to who reads the answer."""


def checked_schema(source: str) -> dict[str, Any]:
    """The schema with nothing in it but what is enforced. RequestError, field `guide`, for any other."""
    try:
        schema = json.loads(source, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The schema is not JSON: {error}", field="guide") from error
    checked = _Checker()
    plain: Any = checked.schema(schema, "#", 0)
    if plain is False:
        _refuse("The schema is false: no answer is valid.")
    for place, target in checked.references:
        if not isinstance(_found(plain, target), (dict, bool)):
            _refuse(f"The schema's {place} leads to {target}, where there is no schema.")
    if (meeting := most_meeting(plain, lambda target: _found(plain, target))) > MOST_MEETING:
        _refuse(
            f"The schema has {meeting} patterns and formats for one text; the most is {MOST_MEETING}.", "Use fewer."
        )
    _put_in_place(plain, checked.exclusive)
    return {} if plain is True else plain


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _refuse(message: str, hint: str | None = None) -> NoReturn:
    raise RequestError(message, field="guide", hint=hint)


class _Checker:
    """Goes through a schema once."""

    def __init__(self) -> None:
        self.references: list[tuple[str, str]] = []
        """Where each stands, and where it leads."""
        self.exclusive: list[list[Any]] = []
        """The options of each oneOf."""
        self._n_schemas = self._n_values = 0

    def schema(self, schema: Any, place: str, depth: int) -> Any:
        """The schema at a place without annotations."""
        self._n_schemas += 1
        if depth > MAX_DEPTH:
            _refuse(f"The schema is nested deeper than {MAX_DEPTH} at {place}.", "Move parts of it into $defs.")
        if self._n_schemas > MAX_SCHEMAS:
            _refuse(f"The schema has more than {MAX_SCHEMAS} schemas in it.", "Make it smaller.")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            _refuse(f"The schema at {place} must be an object, true or false.")
        plain = {}
        for keyword, value in schema.items():
            if keyword in ANNOTATIONS or _is_idle(keyword, value, place):
                continue
            check = _ENFORCED.get(keyword)
            if check is None:
                _refuse(
                    f"The schema's keyword {keyword!r} at {place} cannot be enforced on an answer.",
                    "Leave it out, and check the answer for it.",
                )
            plain[keyword] = check(self, value, f"{place}/{keyword}", depth + 1)
        if "minProperties" in plain:
            _check_least(plain, place)
        if plain.get("format") in DATES:
            plain["allOf"] = [*plain.get("allOf", []), {"pattern": DATES[plain["format"]]}]
        return plain

    def schemas(self, value: Any, place: str, depth: int) -> list[Any]:
        if not isinstance(value, list) or not value:
            _refuse(f"The schema's {place} must be a list of schemas.")
        return [self.schema(one, f"{place}/{index}", depth) for index, one in enumerate(value)]

    def one_of(self, value: Any, place: str, depth: int) -> list[Any]:
        options = self.schemas(value, place, depth)
        self.exclusive.append(options)
        return options

    def named(self, value: Any, place: str, depth: int) -> dict[str, Any]:
        if not isinstance(value, dict):
            _refuse(f"The schema's {place} must be an object of schemas.")
        if len(value) > MAX_PROPERTIES:
            _refuse(f"The schema's {place} has more than {MAX_PROPERTIES} members.", "Make it smaller.")
        return {name: self.schema(one, f"{place}/{_escaped(name)}", depth) for name, one in value.items()}

    def reference(self, value: Any, place: str, _depth: int) -> str:
        if not isinstance(value, str):
            _refuse(f"The schema's {place} must be a string.")
        if value != "#" and not value.startswith("#/"):
            _refuse(
                f"The schema's {place} leads to {value[:80]!r}, outside of the schema or to an anchor.",
                "Refer to #/$defs/… instead.",
            )
        self.references.append((place, value))
        return value

    def values(self, value: Any, place: str, _depth: int) -> list[Any]:
        if not isinstance(value, list) or not value:
            _refuse(f"The schema's {place} must be a list of values.")
        return [self.value(one, place, _depth) for one in value]

    def value(self, value: Any, place: str, _depth: int) -> Any:
        for one in _leaves(value):
            self._n_values += 1
            if isinstance(one, (int, float)):
                _check_number(one, place)
        if self._n_values > MAX_VALUES:
            _refuse(f"The schema has more than {MAX_VALUES} values in it, at {place}.", "Make it smaller.")
        return value

    def types(self, value: Any, place: str, _depth: int) -> Any:
        names = value if isinstance(value, list) and value else [value]
        for name in names:
            if not isinstance(name, str) or name not in TYPES:
                _refuse(f"The schema's {place} must be of {', '.join(TYPES)}.")
        return value

    def count(self, value: Any, place: str, _depth: int) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= EXACT:
            _refuse(f"The schema's {place} must be a whole number from 0.")
        return value

    def number(self, value: Any, place: str, _depth: int) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            _refuse(f"The schema's {place} must be a number.")
        _check_number(value, place)
        return value

    def divisor(self, value: Any, place: str, depth: int) -> float:
        if not self.number(value, place, depth) > 0:
            _refuse(f"The schema's {place} must be greater than 0.")
        return value  # type: ignore[no-any-return]

    def names(self, value: Any, place: str, _depth: int) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            _refuse(f"The schema's {place} must be a list of strings.")
        if len(value) > MAX_PROPERTIES:
            _refuse(f"The schema's {place} has more than {MAX_PROPERTIES} members.", "Make it smaller.")
        return value

    def text(self, value: Any, place: str, _depth: int) -> str:
        if not isinstance(value, str):
            _refuse(f"The schema's {place} must be a string.")
        return value

    def format(self, value: Any, place: str, _depth: int) -> str:
        if value not in FORMATS:
            _refuse(
                f"The schema's {place} is {str(value)[:80]!r}; formats that can be enforced are {', '.join(FORMATS)}.",
                "Leave it out, or say it as a pattern.",
            )
        return value  # type: ignore[no-any-return]


_ENFORCED: dict[str, Callable[[_Checker, Any, str, int], Any]] = {
    "$ref": _Checker.reference,
    "$defs": _Checker.named,
    "definitions": _Checker.named,
    "allOf": _Checker.schemas,
    "anyOf": _Checker.schemas,
    "oneOf": _Checker.one_of,
    "type": _Checker.types,
    "enum": _Checker.values,
    "const": _Checker.value,
    "properties": _Checker.named,
    "patternProperties": _Checker.named,
    "additionalProperties": _Checker.schema,
    "required": _Checker.names,
    "minProperties": _Checker.count,
    "maxProperties": _Checker.count,
    "prefixItems": _Checker.schemas,
    "items": _Checker.schema,
    "minItems": _Checker.count,
    "maxItems": _Checker.count,
    "pattern": _Checker.text,
    "minLength": _Checker.count,
    "maxLength": _Checker.count,
    "format": _Checker.format,
    "minimum": _Checker.number,
    "maximum": _Checker.number,
    "exclusiveMinimum": _Checker.number,
    "exclusiveMaximum": _Checker.number,
    "multipleOf": _Checker.divisor,
}
"""Keywords, and what checks and takes over what each says."""


def _put_in_place(whole: Any, exclusive: Iterable[list[Any]]) -> None:
    """Replaces options of each oneOf that only refer to a schema by a copy of it, while there is room: only there the
    library looks whether no answer is valid under two."""
    room = MAX_SCHEMAS
    for options in exclusive:
        for index, option in enumerate(options):
            target = _meant(whole, option)
            size = _size(target, room)
            if size > room:
                return
            if target is not option:
                options[index] = deepcopy(target)
                room -= size


def _meant(whole: Any, option: Any) -> Any:
    """What an option refers to, if that is all it does; else itself."""
    seen = set()
    while isinstance(option, dict) and option.keys() == {"$ref"} and option["$ref"] not in seen:
        seen.add(option["$ref"])
        option = _found(whole, option["$ref"])
    return option


def _size(schema: Any, most: int) -> int:
    """How many objects and lists there are in a schema, counted to one more than `most`."""
    left, size = [schema], 0
    while left and size <= most:
        one = left.pop()
        if isinstance(one, (dict, list)):
            size += 1
            left += one.values() if isinstance(one, dict) else one
    return size


def _is_idle(keyword: str, value: Any, place: str) -> bool:
    """Whether a keyword has no force here, with this value."""
    if keyword == "$schema":
        if not isinstance(value, str) or value.removesuffix("#") not in DIALECTS:
            _refuse(f"The schema's {place}/$schema is {str(value)[:80]!r}, which is not known.", "Leave it out.")
        return True
    return (keyword == "$id" and place == "#") or (keyword == "uniqueItems" and value is False)


def _check_least(plain: dict[str, Any], place: str) -> None:
    """Names that are not given may be written twice, and would then count twice."""
    least = plain["minProperties"]
    if least > 1 and least > len(set(plain.get("required", ()))):
        _refuse(
            f"The schema's minProperties at {place} asks for {least} members, of which not all are required by name.",
            "Leave it out, or name them in required.",
        )


def _check_number(value: float, place: str) -> None:
    if (isinstance(value, int) and abs(value) > EXACT) or not math.isfinite(value):
        _refuse(f"The schema's {place} has a number that is not exact in double precision.", "Use a smaller one.")


def _leaves(value: Any) -> Iterable[Any]:
    """The value, and what is in it."""
    yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _leaves(one)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _found(schema: Any, pointer: str) -> Any:
    """What a JSON pointer leads to; None: nothing."""
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, list) and name.isdigit() and int(name) < len(schema):
            schema = schema[int(name)]
        else:
            schema = schema.get(name) if isinstance(schema, dict) else None
    return schema
