"""`DeclaredTool`: a tool as a caller declares it, with its arguments one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from landrace.errors import RequestError
from landrace.text.answers.arguments import referred
from landrace.text.guides.schema import checked_schema

DEFINITIONS = ("$defs", "definitions")
_OF_ARGUMENTS = frozenset({"type", "properties", "required", "additionalProperties", "$ref", *DEFINITIONS})
_NO_ARGUMENTS = {"type": "object", "properties": {}}


@dataclass(frozen=True)
class Argument:
    """One argument of a tool."""

    key: str
    schema: Any
    required: bool


@dataclass(frozen=True)
class DeclaredTool:
    """A function's name and the JSON schema of its arguments."""

    name: str
    parameters: Mapping[str, Any]

    @staticmethod
    def all_of(tools: Sequence[Mapping[str, Any]]) -> list[DeclaredTool]:
        """From declarations in the API's form."""
        functions = [tool.get("function", tool) for tool in tools]
        return [DeclaredTool(one["name"], one.get("parameters") or _NO_ARGUMENTS) for one in functions]

    @cached_property
    def schema(self) -> dict[str, Any]:
        """Of the arguments as one object, without annotations. Where it names properties and says nothing of others,
        there are none. RequestError for one that cannot be enforced."""
        try:
            found = checked_schema(json.dumps(self.parameters))
        except RequestError as error:
            raise RequestError(
                f"The parameters of the tool {self.name!r} cannot be enforced: {error.message}",
                field="tools",
                hint=error.hint,
            ) from error
        if found.get("type", "object") != "object":
            raise RequestError(f"The parameters of the tool {self.name!r} are not of type object.", field="tools")
        closed = {"additionalProperties": False} if "properties" in found else {}
        return {**closed, **found, "type": "object"}

    @cached_property
    def arguments(self) -> list[Argument]:
        """The arguments in the schema's order. RequestError for a schema that says more of them than what each is."""
        found: Any = self.schema
        while isinstance(found, Mapping) and "$ref" in found:
            found = referred(found["$ref"], self.schema)
        if not isinstance(found, Mapping):
            raise RequestError(f"The parameters of the tool {self.name!r} refer to nothing.", field="tools")
        unknown = sorted(found.keys() - _OF_ARGUMENTS)
        if unknown:
            raise RequestError(
                f"The parameters of the tool {self.name!r} have {unknown[0]!r} beside their properties, which cannot be"
                " enforced where a model writes arguments one by one.",
                field="tools",
            )
        required = found.get("required", [])
        properties = dict(found.get("properties", {}))
        for key in required:
            properties.setdefault(key, {})
        return [Argument(key, schema, key in required) for key, schema in properties.items()]


def with_definitions(schema: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    """A part of the schema `root`, as one that stands alone."""
    own = dict(schema) if isinstance(schema, Mapping) else {}
    return {**{name: root[name] for name in DEFINITIONS if name in root}, **own}
