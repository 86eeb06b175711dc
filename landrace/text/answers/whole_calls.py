"""Calls that stand in one piece: as a JSON object, or as a call in Python."""

from __future__ import annotations

import json

from landrace.errors import RequestError
from landrace.text.answers.declared_tools import DeclaredTool, with_definitions
from landrace.text.answers.lark import NOTHING, Lark, either


def json_call(lark: Lark, tool: DeclaredTool, key: str) -> str:
    """`{"name": ..., key: {...}}`."""
    head = f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "{key}": '
    return f"{lark.text(head)} {lark.json(tool.schema)} {lark.text('}')}"


def python_call(lark: Lark, tool: DeclaredTool) -> str:
    """`name(key=value, ...)`, with values as JSON. RequestError for names that Python does not have."""
    for name in (*tool.name.split("."), *(argument.key for argument in tool.arguments)):
        if not name.isidentifier():
            raise RequestError(f"The name {name!r} cannot be written in a call in Python.", field="tools")
    rest = dict.fromkeys((True, False), NOTHING)
    for argument in reversed(tool.arguments):
        value = lark.json(with_definitions(argument.schema, tool.schema))
        key = f"{argument.key}="
        written = {first: f"{lark.text(key if first else f', {key}')} {value} {rest[False]}" for first in (True, False)}
        rest = {
            first: lark.rule(written[first] if argument.required else either([written[first], rest[first]]))
            for first in (True, False)
        }
    return f"{lark.text(f'{tool.name}(')} {rest[True]} {lark.text(')')}"


def listed_calls(one: str, lark: Lark, several: bool) -> str:
    """A list of what `one` writes, `several` times or once."""
    name = lark.rule(one)
    more = f"({lark.text(', ')} {name})*" if several else NOTHING
    return f"{lark.text('[')} {name} {more} {lark.text(']')}"
