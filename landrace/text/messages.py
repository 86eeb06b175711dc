"""A conversation as callers send it, in the one form that the rest of this room works with.

Plain JSON types only; keys without a value dropped; a content is text or a list of text parts, never null; a tool call
is `{"type": "function", "function": {"name": ..., "arguments": {...}}}` with its arguments as an object, or as the JSON
text of one where the caller sent text; reasoning under every name that templates read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from landrace.errors import RequestError

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
_MAX_DEPTH = 64
_UNWRITTEN = {
    "function_call": "Send the call as an entry of tool_calls.",
    "refusal": "Send the text of a refusal as content.",
    "audio": "Send the words of the answer as content.",
}
"""Parts of the API's messages that no template writes, and what to send instead."""


def plain_messages(messages: Any) -> list[dict[str, Any]]:
    """The conversation in its plain form. RequestError(field="messages") names message and fault."""
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence) or not messages:
        raise _bad("A conversation is a list of one or more messages.")
    return [_message(message, index) for index, message in enumerate(messages)]


def plain_tools(tools: Any) -> list[dict[str, Any]] | None:
    """Tool declarations as plain JSON; None where there are none. RequestError(field="tools")."""
    if not tools:
        return None
    if not isinstance(tools, Sequence) or not all(isinstance(tool, Mapping) for tool in tools):
        raise RequestError("Tools are a list of objects, each the JSON schema of one function.", field="tools")
    return [plain_json(tool, f"tool {index}", "tools") for index, tool in enumerate(tools)]


def plain_json(value: Any, where: str, field: str, depth: int = 0) -> Any:
    """A copy in plain JSON types: a template must not get hold of richer objects and their methods."""
    if depth > _MAX_DEPTH:
        raise RequestError(f"In {where}, values are nested deeper than {_MAX_DEPTH} levels.", field=field)
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {str(key): plain_json(item, where, field, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item, where, field, depth + 1) for item in value]
    raise RequestError(f"In {where}, a value is not plain JSON but {type(value).__name__}.", field=field)


def arguments_object(text: str) -> dict[str, Any] | None:
    """Tool arguments from their JSON text: nothing means no arguments. None where it is not an object."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def joined_parts(content: str | list[dict[str, Any]]) -> str:
    """A content as one text: its parts, a line each."""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _message(message: Any, index: int) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise _bad(f"Message {index} is not an object with a role and a content.")
    sent: dict[str, Any] = plain_json(message, f"message {index}", "messages")
    plain = {key: value for key, value in sent.items() if value is not None}
    role = plain.get("role")
    if not isinstance(role, str) or not role:
        raise _bad(f"Message {index} has no role.")
    for name, cure in _UNWRITTEN.items():
        if name in plain:
            raise _bad(f"Message {index} has a {name}, which chat templates do not write.", hint=cure)
    if "content" not in sent and role != "assistant":
        raise _bad(f"Message {index} has no content.")
    plain["content"] = _content(plain.get("content", ""), index)
    calls = plain.pop("tool_calls", None) or []
    if not isinstance(calls, list):
        raise _bad(f"The tool_calls of message {index} are not a list.")
    if calls:
        plain["tool_calls"] = [_call(call, number, index) for number, call in enumerate(calls)]
    reasoning = next((plain[name] for name in REASONING_FIELDS if name in plain), None)
    if reasoning is None:
        return plain
    if not isinstance(reasoning, str):
        raise _bad(f"The reasoning of message {index} is not text.")
    # Templates read a message's reasoning under one of two names, callers give it under one of three.
    return {"thinking": reasoning, **plain, "reasoning_content": reasoning}


def _content(content: Any, index: int) -> str | list[dict[str, Any]]:
    """Text, or the text parts that are not empty; no such part is an empty text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _bad(f"The content of message {index} is neither text nor a list of parts.")
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else part
        if not (isinstance(part, dict) and kind == "text" and isinstance(part.get("text"), str)):
            raise _bad(f"Message {index} has a content part that is not text: {str(kind)[:40]!r}.")
    return [{"type": "text", "text": part["text"]} for part in content if part["text"]] or ""


def _call(call: Any, number: int, index: int) -> dict[str, Any]:
    """A call in the API's form; data sets also write the function alone."""
    where = f"tool call {number} of message {index}"
    if not isinstance(call, dict):
        raise _bad(f"The {where} is not an object.")
    function = call.get("function", call)
    if not isinstance(function, dict) or call.get("type", "function") != "function":
        raise _bad(f"The {where} is not the call of a function.")
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise _bad(f"The {where} has no name.")
    arguments = function.get("arguments")
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        arguments = {}
    if not isinstance(arguments, dict) and not (isinstance(arguments, str) and arguments_object(arguments) is not None):
        raise _bad(
            f"The arguments of {where} are not a JSON object.",
            hint="Send them as an object, or as the JSON text of an object.",
        )
    around = {key: value for key, value in call.items() if value is not None} if "function" in call else {}
    return {"type": "function", **around, "function": {**function, "arguments": arguments}}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _bad(message: str, *, hint: str | None = None) -> RequestError:
    return RequestError(message, field="messages", hint=hint)
