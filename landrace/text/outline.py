"""What a chat template leaves out of a conversation.

An outline is a conversation in which every text has become a mark of its own. A template that writes all marks writes
all texts of conversations of that shape, so one rendering answers for many. Not asked for are reasoning, which many
templates drop from earlier turns by design, and the content beside a tool call of a finished turn where the template
wrote it while the turn was the newest (gpt-oss treats it as reasoning).
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from landrace.text.messages import REASONING_FIELDS, arguments_object

_SIGN = "landrace7f3a"
_MARK = re.compile(rf"{_SIGN}\d+z")


@dataclass(frozen=True)
class Mark:
    """One text of the conversation: what stands for it in the outline, and what it is called in an error."""

    text: str
    name: str
    field: str
    real: str
    beside_call: int | None = None
    """The index of the message, where this is the content beside a tool call."""


@dataclass(frozen=True)
class Outline:
    messages: list[dict[str, Any]]
    tools: list[Any] | None
    marks: tuple[Mark, ...]


class _Marker:
    def __init__(self) -> None:
        self.marks: list[Mark] = []

    def mark(self, real: str, name: str, field: str = "messages", beside_call: int | None = None) -> str:
        text = f"{_SIGN}{len(self.marks)}z"
        self.marks.append(Mark(text, name, field, real, beside_call))
        return text

    def strings(self, value: Any, name: str) -> Any:
        """`value` with a mark for every text in it that is not a key."""
        if isinstance(value, str):
            return self.mark(value, name) if value else value
        if isinstance(value, list):
            return [self.strings(item, name) for item in value]
        if isinstance(value, dict):
            return {key: self.strings(item, name) for key, item in value.items()}
        return value


def outline(messages: Sequence[dict[str, Any]], tools: list[Any] | None) -> Outline:
    """The outline of fitted messages (`landrace.text.fitting`)."""
    marker = _Marker()
    written = [_outlined(message, index, marker) for index, message in enumerate(messages)]
    declared = None if tools is None else [_declared(tool, marker) for tool in tools]
    return Outline(written, declared, tuple(marker.marks))


def _outlined(message: dict[str, Any], index: int, marker: _Marker) -> dict[str, Any]:
    name = f"message {index} (role {message['role'][:40]!r})"
    result = {**message, **{field: _SIGN for field in REASONING_FIELDS if message.get(field)}}
    beside = index if "tool_calls" in message else None
    content = message["content"]
    if isinstance(content, list):
        result["content"] = [{**part, "text": marker.mark(part["text"], name, beside_call=beside)} for part in content]
    elif content:
        result["content"] = marker.mark(content, name, beside_call=beside)
    if "tool_calls" in message:
        result["tool_calls"] = [
            _called(call, f"tool call {number} of {name}", marker) for number, call in enumerate(message["tool_calls"])
        ]
    return result


def _called(call: dict[str, Any], name: str, marker: _Marker) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function["arguments"]
    if isinstance(arguments, str):
        marked = json.dumps(marker.strings(arguments_object(arguments), name), ensure_ascii=False)
    else:
        marked = marker.strings(arguments, name)
    called = {**function, "name": marker.mark(function["name"], name), "arguments": marked}
    return {**call, "function": called} if "function" in call else called


def _declared(tool: dict[str, Any], marker: _Marker) -> dict[str, Any]:
    function = tool.get("function", tool)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return tool
    marked = {**function, "name": marker.mark(function["name"], f"the tool {function['name'][:40]!r}", "tools")}
    return {**tool, "function": marked} if "function" in tool else marked


def shape(messages: Sequence[dict[str, Any]], tools: list[Any] | None) -> Hashable:
    """What two conversations have in common that a template writes alike but for the texts."""
    return (
        tuple(tuple(_shape_of(message)) for message in messages),
        None if tools is None else tuple((str(tool.get("type")), "function" in tool) for tool in tools),
    )


def _shape_of(message: dict[str, Any]) -> list[Hashable]:
    content = message["content"]
    size = len(content) if isinstance(content, list) else bool(content) if content is not None else None
    kinds = [_kind(call.get("function", call)["arguments"]) for call in message.get("tool_calls", ())]
    return [message["role"], isinstance(content, list), size, frozenset(message), tuple(kinds)]


def _kind(value: Any) -> Hashable:
    if isinstance(value, str):
        return bool(value)
    if isinstance(value, list):
        return tuple(map(_kind, value))
    if isinstance(value, dict):
        return frozenset((key, _kind(item)) for key, item in value.items())
    return None


def left_out(marks: Sequence[Mark], text: str) -> list[Mark]:
    """The marks that do not stand in `text`."""
    there = set(_MARK.findall(text))
    return [mark for mark in marks if mark.text not in there]


def first_unwritten(marks: Sequence[Mark], text: str) -> Mark | None:
    """The first mark whose own text, as it is or escaped for JSON, does not stand in what the template wrote."""
    behind = 0
    for mark in marks:
        real = mark.real.strip()
        for form in (real, json.dumps(real, ensure_ascii=False)[1:-1]):
            # Texts mostly stand in their order, and a long conversation is not to be searched anew for each.
            at = text.find(form, behind)
            if at >= 0 or form in text:
                behind = max(behind, at)
                break
        else:
            return mark
    return None
