"""Calls out of what the states of a grammar have read."""

from __future__ import annotations

import ast
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from landrace.text.answers.arguments import read_json, typed
from landrace.text.answers.events import ToolCall
from landrace.text.answers.nested import nested

_CONSTANTS = {"true": True, "false": False, "null": None}
_SEPARATORS = " \t\r\n,;"


@dataclass
class Written:
    """What stands in the slots of one call so far."""

    slots: dict[str, str] = field(default_factory=dict)
    arguments: list[tuple[str, str, str]] = field(default_factory=list)
    """Key, value as text, and what the grammar says of its kind: "string", "json" or nothing."""

    def __bool__(self) -> bool:
        return bool(self.slots)

    def put(self, slot: str, text: str) -> None:
        """Notes the whole text of a slot. A value ends an argument."""
        if slot == "value":
            self.arguments.append((self.slots.pop("key"), text, self.slots.pop("kind", "")))
        else:
            self.slots[slot] = text


class Tools:
    """The tools that a caller declared, by name."""

    def __init__(self, declared: Sequence[Mapping[str, Any]]) -> None:
        functions = [tool.get("function", tool) for tool in declared]
        self._schemas: dict[str, Any] = {
            one["name"]: one.get("parameters") for one in functions if isinstance(one.get("name"), str)
        }

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._schemas)

    def read(self, written: Written) -> list[ToolCall] | None:
        """The calls that were written; None where they are broken."""
        slots = written.slots
        name = slots.get("name", "").strip()
        if "json" in slots:
            read = _named_json(name, slots["json"]) if name else _json_calls(slots["json"])
        elif "nested" in slots:
            arguments = nested(slots["nested"], self._schemas.get(name))
            read = None if arguments is None else [(name, arguments)]
        elif "python" in slots:
            read = _python_calls(slots["python"])
        else:
            read = [(name, self._typed(name, written.arguments))]
        known = "bare" not in slots or all(one in self._schemas for one, _ in read or ())
        if not read or not known or any(not one or one.split() != [one] for one, _ in read):
            return None
        own = slots.get("id", "").strip()
        return [ToolCall(own or f"call_{secrets.token_hex(12)}", one, arguments) for one, arguments in read]

    def _typed(self, name: str, arguments: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
        schema = self._schemas.get(name)
        root = schema if isinstance(schema, Mapping) else {}
        properties = root.get("properties")
        fields = properties if isinstance(properties, Mapping) else {}
        return {
            key: text if kind == "string" else _of_kind(text, kind, fields.get(key), root)
            for key, text, kind in arguments
        }


def _of_kind(text: str, kind: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """A value by what the model says of it, if it says so, and by the schema otherwise."""
    if kind:
        try:
            return read_json(text)
        except (ValueError, RecursionError):
            pass
    return typed(text, schema, root)


def _named_json(name: str, text: str) -> list[tuple[str, dict[str, Any]]] | None:
    arguments = _arguments(text)
    return None if arguments is None else [(name, arguments)]


def _json_calls(text: str) -> list[tuple[str, dict[str, Any]]] | None:
    """One object after another, or lists of them."""
    decoder = json.JSONDecoder(strict=False)
    at, found = 0, []
    text = text.strip(_SEPARATORS)
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
            read_json(json.dumps(value))  # no NaN, no Infinity
        except (ValueError, RecursionError):
            return None
        found += value if isinstance(value, list) else [value]
        while at < len(text) and text[at] in _SEPARATORS:
            at += 1
    calls = [_json_call(one) for one in found]
    return [call for call in calls if call is not None] if all(calls) else None


def _json_call(value: Any) -> tuple[str, dict[str, Any]] | None:
    """`{"name": ..., "arguments" or "parameters": ...}`, or that in "function"."""
    if not isinstance(value, dict):
        return None
    inner = value.get("function", value)
    value = inner if isinstance(inner, dict) else {**value, "name": inner}
    arguments = _arguments(value.get("arguments", value.get("parameters")))
    if not isinstance(value.get("name"), str) or arguments is None:
        return None
    return value["name"], arguments


def _arguments(value: Any) -> dict[str, Any] | None:
    """An object, or its JSON text; nothing means no arguments."""
    if isinstance(value, str):
        try:
            value = read_json(value) if value.strip() else {}
        except (ValueError, RecursionError):
            return None
    value = {} if value is None else value
    return value if isinstance(value, dict) else None


def _python_calls(text: str) -> list[tuple[str, dict[str, Any]]] | None:
    """`[name(key=value, ...), ...]` with literal values, Python's or JSON's."""
    try:
        parsed = _OfJson().visit(ast.parse(text.strip(), mode="eval")).body
        calls = parsed.elts if isinstance(parsed, ast.List) else [parsed]
        return [_python_call(call) for call in calls]
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


class _OfJson(ast.NodeTransformer):
    """Reads the constants of JSON, which models write in Python too."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(_CONSTANTS[node.id]) if node.id in _CONSTANTS else node


def _python_call(call: ast.expr) -> tuple[str, dict[str, Any]]:
    if not isinstance(call, ast.Call) or call.args or any(one.arg is None for one in call.keywords):
        raise ValueError
    arguments = {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}
    json.dumps(arguments)
    return ast.unparse(call.func), arguments
