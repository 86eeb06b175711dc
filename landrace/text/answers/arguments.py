"""Arguments that a model wrote as bare text, as the tool's JSON schema types them."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

MAX_DEPTH = 16
"""Most references and alternatives that are followed in a schema."""
_TYPE_OF = {
    "bool": "boolean",
    "int": "integer",
    "float": "number",
    "dict": "object",
    "list": "array",
    "NoneType": "null",
}


def typed(text: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """The value that `text` writes by `schema`, whose references are into `root`.

    Text where the schema takes text, and where what it takes cannot be read out of `text`; nothing is lost.
    """
    types = types_of(schema, root)
    for name, read in _READERS:
        if name in types:
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError, OverflowError):
                return read(text.strip())
    return text


def types_of(schema: Any, root: Mapping[str, Any]) -> set[str]:
    """The JSON types that a schema takes; none where it does not say."""
    return {name for one in _readings(schema, root) for name in _own_types(one)}


def part_of(schema: Any, name: str | None, root: Mapping[str, Any]) -> Any:
    """The schema of an object's member of this name, or of an array's elements; None where a schema says nothing."""
    for one in _readings(schema, root):
        members = one.get("properties")
        if name is None and "items" in one:
            return one["items"]
        if name is not None and isinstance(members, Mapping) and name in members:
            return members[name]
        if name is not None and isinstance(one.get("additionalProperties"), Mapping):
            return one["additionalProperties"]
    return None


def _readings(schema: Any, root: Mapping[str, Any], depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """The schema, what it refers to, and its alternatives."""
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return
    yield schema
    if isinstance(schema.get("$ref"), str):
        yield from _readings(referred(schema["$ref"], root), root, depth + 1)
    for name in ("anyOf", "oneOf", "allOf"):
        for one in alternatives(schema, name):
            yield from _readings(one, root, depth + 1)


def _own_types(schema: Mapping[str, Any]) -> set[str]:
    named = schema.get("type")
    types = {named} if isinstance(named, str) else {one for one in _list(named) if isinstance(one, str)}
    values = _list(schema.get("enum")) + ([schema["const"]] if "const" in schema else [])
    types = types or {_TYPE_OF.get(type(value).__name__, "string") for value in values}
    if not types and ("properties" in schema or "items" in schema):
        types = {"object" if "properties" in schema else "array"}
    return types | ({"null"} if schema.get("nullable") is True else set())


def read_json(text: str) -> Any:
    """Strict JSON but for line breaks in strings. Raises ValueError and RecursionError."""
    return json.loads(text, strict=False, parse_constant=_refuse_constant)


def alternatives(schema: Mapping[str, Any], name: str) -> list[Any]:
    """What a schema lists under `name`; nothing where it lists none."""
    return _list(schema.get(name))


def referred(reference: str, root: Mapping[str, Any]) -> Any:
    """What `#/a/b` points at; None where there is nothing."""
    found: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []


def _null(text: str) -> None:
    if text not in ("null", "None"):
        raise ValueError


def _boolean(text: str) -> bool:
    if text in ("true", "True", "false", "False"):
        return text in ("true", "True")
    raise ValueError


def _integer(text: str) -> int:
    value = _number(text)
    if value != int(value):
        raise ValueError
    return int(value)


def _number(text: str) -> int | float:
    value = read_json(text.removeprefix("+"))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return value


def _container(kind: type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = read_json(text)
        except ValueError:
            value = ast.literal_eval(text)  # as templates write an object that they take for text
        if not isinstance(value, kind):
            raise ValueError
        return value

    return read


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_READERS: tuple[tuple[str, Callable[[str], Any]], ...] = (
    ("null", _null),
    ("boolean", _boolean),
    ("integer", _integer),
    ("number", _number),
    ("array", _container(list)),
    ("object", _container(dict)),
)
