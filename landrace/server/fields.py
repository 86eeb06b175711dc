"""Objects of an API as clients send them: every field is honoured, asks for nothing, or is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from landrace.server.http.errors import FieldError, require_type

Neutral = tuple[Any, ...] | type
"""The values that ask for nothing besides null. A type: the field is a label that changes no answer, so any of them."""

_TYPES: Mapping[type, str] = {str: "string", list: "array", dict: "object", bool: "boolean", int: "integer"}
ONE_OR_SEVERAL: JsonSchemaValue = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
"""In a document, of a field that takes a text or a list of texts."""
TEXTS_OR_IDS: JsonSchemaValue = {
    "anyOf": [
        *ONE_OR_SEVERAL["anyOf"],
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ]
}
"""Of one that takes token ids as well."""


class Fields(BaseModel):
    """An object of an API. A field that is null counts as not given; one that is not here is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    neutral: ClassVar[Mapping[str, Neutral]] = {}
    """Fields that are not implemented, and which values of them ask for nothing and are therefore taken. Those that an
    endpoint does honour may be among them."""
    place: ClassVar[str] = ""
    """The path of the object in its body."""

    @model_validator(mode="before")
    @classmethod
    def _what_asks_for_nothing_is_not_given(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        table = {name: values for name, values in cls.neutral.items() if name not in cls.model_fields}
        asked = without_neutral(data, table, cls.place)
        return {name: value for name, value in asked.items() if value is not None or name not in cls.model_fields}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """What is taken and not implemented is said as well, and that null is nothing."""
        found = handler(schema)
        told = handler.resolve_ref_schema(found)
        needed = told.get("required", ())
        told["properties"] = {
            **{name: one if name in needed else _or_null(one) for name, one in told["properties"].items()},
            **{name: _neutral_schema(values) for name, values in cls.neutral.items() if name not in cls.model_fields},
        }
        return found


def _or_null(schema: JsonSchemaValue) -> JsonSchemaValue:
    given = schema.get("anyOf", ())
    return schema if {"type": "null"} in given else {"anyOf": [*(given or [schema]), {"type": "null"}]}


def _neutral_schema(neutral: Neutral) -> JsonSchemaValue:
    if isinstance(neutral, type):
        return {"type": [_TYPES[neutral], "null"]}
    return {"enum": [*neutral, None]}


def without_neutral(fields: Mapping[str, Any], table: Mapping[str, Neutral], inside: str = "") -> dict[str, Any]:
    """`fields` without those of `table`. `inside` is the path of the object they are in.

    Raises FieldError for a field of the table that asks for something.
    """
    for name in table:
        if fields.get(name) is not None:
            _refuse_unless_neutral(f"{inside}.{name}" if inside else name, fields[name], table[name])
    return {name: value for name, value in fields.items() if name not in table}


def required(fields: Mapping[str, Any], name: str, path: str, kind: type | None = None) -> Any:
    """The value of a field that must be there, and must be a `kind`: str, list or dict. Raises FieldError."""
    field = f"{path}.{name}"
    if fields.get(name) is None:
        raise FieldError(f"The field {field!r} is required.", field=field, code="missing_required_parameter")
    if kind is not None:
        require_type(fields[name], kind, field)
    return fields[name]


def refuse_others(given: Mapping[str, Any], known: tuple[str, ...], path: str) -> None:
    """Raises FieldError for a field that is not among `known` and not null."""
    for name in given:
        if name not in known and given[name] is not None:
            raise FieldError(f"There is no field {path}.{name} here.", field=f"{path}.{name}", code="unknown_parameter")


def check_flag(given: Mapping[str, Any], name: str, path: str) -> None:
    """Raises FieldError for a field that is neither true, false nor null."""
    if not isinstance(given.get(name), bool | None):
        raise FieldError(f"{path}.{name} must be true or false.", field=f"{path}.{name}", code="invalid_type")


def _refuse_unless_neutral(field: str, value: Any, neutral: Neutral) -> None:
    if isinstance(neutral, type):
        require_type(value, neutral, field)
        return
    # Of the same type as well: in Python true equals 1.
    if not any(type(value) is type(one) and value == one for one in neutral):
        allowed = f" other than as {' or '.join(map(json.dumps, neutral))}, which asks for nothing" if neutral else ""
        raise FieldError(f"{field} is not supported{allowed}.", field=field, code="unsupported_parameter")
