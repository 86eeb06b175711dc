"""A JSON schema made narrower, so that whatever is valid under it can also be read back out of an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from landrace.text.answers.arguments import types_of

_ANY = "landrace any"
_LEAST = -1e15
"""Of numbers without bounds. A number with a bound is written without an exponent, and so stays finite."""
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions")


def readable_schema(schema: Mapping[str, Any], mark: str = "") -> dict[str, Any]:
    """`schema`, a root, without numbers that are too large to be any, and without texts in which `mark` begins: readers
    who look for a mark take no notice of quotes."""
    narrowed = _Narrowed(mark)
    found: dict[str, Any] = narrowed.schema(schema)
    if narrowed.used_any:
        found["$defs"] = {**found.get("$defs", {}), _ANY: narrowed.anything()}
    return found


class _Narrowed:
    def __init__(self, mark: str) -> None:
        first, second = (re.escape(one) for one in mark[:2]) if mark else ("", "")
        self._pattern = f"^([^{first}]|{first}+[^{first}{second}])*{first}*$" if mark else ""
        self.used_any = False

    def anything(self) -> dict[str, Any]:
        """Any value."""
        simple = [{"type": "null"}, {"type": "boolean"}, {"type": "number", "minimum": _LEAST}, self._text()]
        return {"anyOf": [*simple, {"type": "array", "items": self._any()}, {"type": "object", **self._map()}]}

    def schema(self, schema: Any) -> Any:
        if schema is True or schema == {}:
            return self._any()
        if not isinstance(schema, Mapping):
            return schema
        found = {key: self._inner(key, value) for key, value in schema.items()}
        if {"enum", "const", "$ref", *_LISTS[:2]} & schema.keys():
            return found
        types = types_of(schema, {})
        if "number" in types and not {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"} & schema.keys():
            found["minimum"] = _LEAST
        if "string" in types and self._pattern:
            own = {"pattern": self._pattern}
            found = {**found, "allOf": [*found.get("allOf", []), own]} if "pattern" in schema else found | own
        if "object" in types and schema.get("additionalProperties", True) in (True, {}):
            # A key that is named must not fall under a pattern as well.
            named = self._pattern and {"properties", "patternProperties"} & schema.keys()
            found |= {"additionalProperties": False} if named else self._map()
        if "array" in types and "items" not in schema:
            found["items"] = self._any()
        return found

    def _any(self) -> dict[str, Any]:
        self.used_any = True
        return {"$ref": f"#/$defs/{_ANY}"}

    def _text(self) -> dict[str, Any]:
        return {"type": "string", **({"pattern": self._pattern} if self._pattern else {})}

    def _map(self) -> dict[str, Any]:
        if not self._pattern:
            return {"additionalProperties": self._any()}
        return {"patternProperties": {self._pattern: self._any()}, "additionalProperties": False}

    def _inner(self, key: str, value: Any) -> Any:
        if key in _MAPS and isinstance(value, Mapping):
            return {name: self.schema(one) for name, one in value.items()}
        if key in _LISTS and isinstance(value, list):
            return [self.schema(one) for one in value]
        return self.schema(value) if key in ("items", "additionalProperties") else value
