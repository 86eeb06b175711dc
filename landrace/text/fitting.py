"""What a chat template takes, found by having it write short conversations.

Templates differ in the form they read: a content as text or as parts, a tool call's arguments as an object or as text,
the function inside a call or the call alone, the empty content beside it as text or as null, the role `developer` or
only `system`. Nothing is read off a
template's source or name. Each question is asked once for each template, and again for conversations with tools.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from landrace.text.messages import arguments_object, joined_parts

Write = Callable[[list[dict[str, Any]], list[Any] | None], str | None]
"""Writes messages with tools; None where the template does not accept them."""

_TEXT, _OTHER, _NAME = "Landrace-7f3a", "Landrace-9b1c", "landrace_2d5e"
_USER = {"role": "user", "content": "Hello"}
_ARGUMENTS = {"key": _TEXT, "sure": True}
_CALL = {"id": "call00001", "type": "function", "function": {"name": _NAME, "arguments": _ARGUMENTS}}
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "Does nothing.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string", "description": "A word."}}},
    },
}
_STRANGER = "landrace"
"""A role that no template knows."""


@dataclass(frozen=True)
class _CallForm:
    """How a template reads a tool call: with arguments as an object, as a bare function, beside which empty content."""

    as_object: bool = True
    bare: bool = False
    empty: str | None = ""

    def call(self, call: dict[str, Any]) -> dict[str, Any]:
        """A plain call in this form."""
        arguments = call["function"]["arguments"]
        if self.as_object and isinstance(arguments, str):
            arguments = arguments_object(arguments)
        elif not self.as_object and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        function = {**call["function"], "arguments": arguments}
        around = {key: value for key, value in call.items() if key != "function"}
        return {**around, **function} if self.bare else {**around, "function": function}

    def message(self) -> dict[str, Any]:
        """A short example."""
        return {"role": "assistant", "content": self.empty, "tool_calls": [self.call(_CALL)]}


class Fitting:
    """Brings plain messages (`landrace.text.messages`) into the form that one template reads."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._known: dict[tuple[str, ...], Any] = {}

    def fit(self, messages: Sequence[dict[str, Any]], tools: list[Any] | None) -> list[dict[str, Any]]:
        """The same conversation in the template's own forms."""
        return [self._fit(message, tools is not None) for message in messages]

    def _fit(self, message: dict[str, Any], with_tools: bool) -> dict[str, Any]:
        role, content = message["role"], message["content"]
        if role == "developer" and not self._ask(self._writes_developer, "developer", with_tools=with_tools):
            role = "system"
        wants = self._ask(self._content_form, "content", role, with_tools=with_tools)
        if wants == "text":
            content = joined_parts(content)
        elif wants == "parts only" and isinstance(content, str):
            content = [{"type": "text", "text": content}]
        fitted = {**message, "role": role, "content": content}
        if "tool_calls" not in message:
            return fitted
        form: _CallForm = self._ask(self._call_form, "calls", with_tools=with_tools)
        fitted["tool_calls"] = [form.call(call) for call in message["tool_calls"]]
        return fitted if content else {**fitted, "content": form.empty}

    def _ask(self, question: Callable[..., Any], *about: str, with_tools: bool) -> Any:
        key = (*about, "tools" if with_tools else "")
        if key not in self._known:
            self._known[key] = question(*about[1:], [_TOOL] if with_tools else None)
        return self._known[key]

    def _content_form(self, role: str, tools: list[Any] | None) -> str:
        """Whether a role's content may stand as "text", as "text or parts", or as "parts only"."""
        text = self._probe(role, _TEXT, tools)
        one = self._probe(role, [{"type": "text", "text": _TEXT}], tools)
        two = self._probe(role, [{"type": "text", "text": _TEXT}, {"type": "text", "text": _OTHER}], tools)
        if one is None or two is None or _OTHER not in two.partition(_TEXT)[2]:
            return "text"
        if text is None or _TEXT not in text:
            return "text" if "'text'" in one or '"text"' in one else "parts only"
        return "text or parts" if text == one else "text"

    def _probe(self, role: str, content: Any, tools: list[Any] | None) -> str | None:
        asked = {"role": role, "content": content}
        if role == "user":
            return self._write([asked], tools)
        if role in ("system", "developer"):
            return self._write([asked, _USER], tools)
        if role == "tool":
            form: _CallForm = self._ask(self._call_form, "calls", with_tools=tools is not None)
            asked |= {"name": _NAME, "tool_call_id": _CALL["id"]}
            return self._write([_USER, form.message(), asked], tools)
        return self._write([_USER, asked, _USER], tools)

    def _call_form(self, tools: list[Any] | None) -> _CallForm:
        written = json.dumps(_ARGUMENTS)
        spoilt = (str(_ARGUMENTS), json.dumps(written)[1:-1])
        for bare, as_object, empty in product((False, True), (True, False), ("", None)):
            form = _CallForm(as_object, bare, empty)
            text = self._write([_USER, form.message()], tools) or ""
            # A template with another form in mind writes Python's spelling of the object, or escapes the text again.
            if _NAME in text and _TEXT in text and not any(wrong in text for wrong in spoilt):
                return form
        return _CallForm()

    def _writes_developer(self, tools: list[Any] | None) -> bool:
        """Whether the template knows the role, rather than writing the name of any role it is given."""
        text = self._probe("developer", _TEXT, tools)
        stranger = self._write([{"role": _STRANGER, "content": _TEXT}, _USER], tools)
        if text is None or _TEXT not in text:
            return False
        return stranger is None or stranger.replace(_STRANGER, "developer") != text
