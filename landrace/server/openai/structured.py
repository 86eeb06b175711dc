"""What a call wants its answers to be, in the API's two ways of saying it, as a `Guide`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from landrace.server.fields import check_flag, refuse_others, required
from landrace.server.http.errors import FieldError, require_type
from landrace.text.guides import Guide

RESPONSE_FORMAT, STRUCTURED_OUTPUTS = "response_format", "structured_outputs"
GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
"""vLLM's older names of what `structured_outputs` has under these."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OF_FORMAT = {"text": ("type",), "json_object": ("type",), "json_schema": ("type", "json_schema")}
_OF_SCHEMA = ("name", "schema", "description", "strict")


def said_guide(response_format: Any, structured_outputs: Any, guided: Mapping[str, Any]) -> Guide | None:
    """What an answer is held to; None where nothing asks for it. Raises FieldError with the path of what is wrong.

    Nothing is compiled here. `strict` is taken either way: a schema is always kept to.
    """
    asked = None if response_format is None else _of_format(response_format)
    others = {**({} if structured_outputs is None else {STRUCTURED_OUTPUTS: structured_outputs}), **guided}
    names = [*([] if asked is None else [RESPONSE_FORMAT]), *others]
    if len(names) > 1:
        raise FieldError(f"{names[1]} and {names[0]} both say what the answer is to be.", field=names[1])
    for name, value in others.items():
        return _of_outputs(value) if name == STRUCTURED_OUTPUTS else _READERS[GUIDED[name]](value, name)
    return asked


def field_of_guide(response_format: Any, guided: Mapping[str, Any]) -> str:
    """The field that a guide came from."""
    for name in guided:
        return name
    schema = isinstance(response_format, Mapping) and response_format.get("type") == "json_schema"
    return f"{RESPONSE_FORMAT}.json_schema.schema" if schema else STRUCTURED_OUTPUTS


def _of_format(given: Any) -> Guide | None:
    kind = _kind(given, RESPONSE_FORMAT)
    refuse_others(given, _OF_FORMAT[kind], RESPONSE_FORMAT)
    if kind != "json_schema":
        return Guide.of_json_object() if kind == "json_object" else None
    path = f"{RESPONSE_FORMAT}.json_schema"
    wrapped = required(given, "json_schema", RESPONSE_FORMAT, dict)
    refuse_others(wrapped, _OF_SCHEMA, path)
    return _of_schema(wrapped, path)


def flat_format(given: Any, path: str) -> Guide | None:
    """As `response_format`, where the schema's fields lie in the format itself."""
    kind = _kind(given, path)
    refuse_others(given, ("type", *(_OF_SCHEMA if kind == "json_schema" else ())), path)
    if kind != "json_schema":
        return Guide.of_json_object() if kind == "json_object" else None
    return _of_schema(given, path)


def _kind(given: Any, path: str) -> str:
    require_type(given, dict, path)
    kind = given.get("type")
    if not isinstance(kind, str) or kind not in _OF_FORMAT:
        raise FieldError(
            f"{path}.type must be {', '.join(_OF_FORMAT)}, not {json.dumps(kind)[:60]}.", field=f"{path}.type"
        )
    return kind


def _of_schema(given: Mapping[str, Any], path: str) -> Guide:
    name = required(given, "name", path, str)
    if _NAME.fullmatch(name) is None:
        raise FieldError(f"{path}.name must be 1 to 64 letters, digits, _ and -.", field=f"{path}.name")
    check_flag(given, "strict", path)
    if given.get("description") is not None:
        require_type(given["description"], str, f"{path}.description")
    return Guide.of_schema(required(given, "schema", path, dict))


def _of_outputs(given: Any) -> Guide:
    path = STRUCTURED_OUTPUTS
    require_type(given, dict, path)
    asked = {name: value for name, value in given.items() if value is not None}
    refuse_others(asked, tuple(_READERS), path)
    if len(asked) != 1:
        raise FieldError(f"{path} must have exactly one of {', '.join(_READERS)}.", field=path)
    ((name, value),) = asked.items()
    return _READERS[name](value, f"{path}.{name}")


def _json(value: Any, path: str) -> Guide:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise FieldError(f"{path} is a text that is not JSON.", field=path) from error
    require_type(value, dict, path)
    return Guide.of_schema(value)


def _regex(value: Any, path: str) -> Guide:
    require_type(value, str, path)
    return Guide.of_regex(value)


def _grammar(value: Any, path: str) -> Guide:
    require_type(value, str, path)
    return Guide.of_lark(value)


def _choice(value: Any, path: str) -> Guide:
    require_type(value, list, path)
    if not value or not all(isinstance(one, str) for one in value):
        raise FieldError(f"{path} must be a list of texts, one or more.", field=path)
    return Guide.of_choices(value)


def _json_object(value: Any, path: str) -> Guide:
    if value is not True:
        raise FieldError(f"{path} must be true.", field=path)
    return Guide.of_json_object()


_READERS = {"json": _json, "regex": _regex, "choice": _choice, "grammar": _grammar, "json_object": _json_object}
