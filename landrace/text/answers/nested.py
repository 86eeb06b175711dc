"""Arguments written as tags within tags, typed by the tool's JSON schema: MiniMax-M3's way.

A tag is named by what it holds: `<key>` a member of an object, `<item>` an element of an array, and what has no tags
in it is bare text. A control token (`SIGN`) stands before each tag, so that text can hold what looks like one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from landrace.text.answers.arguments import part_of, read_json, typed, types_of

SIGN = "]<]minimax[>["
_ITEM = "item"
_MAX_DEPTH = 64


@dataclass
class _Element:
    name: str
    text: str = ""
    parts: list[_Element] = field(default_factory=list)


def nested(body: str, schema: Any) -> dict[str, Any] | None:
    """The arguments of a call between its own tags, by the schema of its parameters; None where the tags are broken."""
    parts = _tree(body)
    return None if parts is None else _members(parts, schema, schema if isinstance(schema, Mapping) else {})


def _tree(body: str) -> list[_Element] | None:
    before, *pieces = body.split(SIGN)
    if before.strip():
        return None
    path = [_Element("")]
    for piece in pieces:
        tag, closed, text = piece.partition(">")
        inner = path[-1]
        if piece.startswith("</"):
            path.pop()
            # Published checkpoints leave out the opening tag of a first argument: its end tells its name.
            inner.name = inner.name or tag[2:]
            if not path or inner.name != tag[2:] or text.strip():
                return None
        elif piece.startswith("<") and closed and len(tag) > 1 and not inner.text.strip() and len(path) <= _MAX_DEPTH:
            path.append(_Element(tag[1:], text))
            inner.parts.append(path[-1])
        elif len(path) == 1 and not inner.parts and not piece.startswith("<"):
            path.append(_Element("", piece))
            inner.parts.append(path[-1])
        else:
            return None
    return path[0].parts if len(path) == 1 else None


def _value(element: _Element, schema: Any, root: Mapping[str, Any]) -> Any:
    types = types_of(schema, root)
    if element.parts:
        listed = "array" in types or ("object" not in types and {part.name for part in element.parts} == {_ITEM})
    elif element.text.strip() or "string" in types or not types & {"array", "object"}:
        return typed(element.text, schema, root) if types else _bare(element.text)
    else:
        listed = "array" in types
    if listed:
        return [_value(part, part_of(schema, None, root), root) for part in element.parts]
    return _members(element.parts, schema, root)


def _members(parts: Sequence[_Element], schema: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    """An object; what stands there several times is a list."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(part.name for part in parts):
        own, same = part_of(schema, name, root), [part for part in parts if part.name == name]
        if len(same) == 1:
            found[name] = _value(same[0], own, root)
        else:
            found[name] = [_value(part, part_of(own, None, root) or own, root) for part in same]
    return found


def _bare(text: str) -> Any:
    """What no schema types: a number, true, false, null or a container where it reads as one, else text."""
    try:
        value = read_json(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, str) else value
