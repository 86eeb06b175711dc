"""Messages of Ollama's API in the form of the house."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from landrace.server.fields import Neutral, refuse_others, required, without_neutral
from landrace.server.http.errors import FieldError, require_type

_ROLES = ("system", "user", "assistant", "tool")
OF_A_MESSAGE: Mapping[str, Neutral] = {"images": ([],)}


def house_messages(messages: Any) -> list[dict[str, Any]]:
    """A conversation. Results of tools answer the calls before them, by name or in their order. Raises FieldError with
    the path of what is wrong."""
    require_type(messages, list, "messages")
    found: list[dict[str, Any]] = []
    unanswered: list[dict[str, Any]] = []
    for index, given in enumerate(messages):
        path = f"messages[{index}]"
        message = _checked(given, path)
        if message["role"] == "tool":
            found.append(_result(message, unanswered))
            continue
        plain = {"role": message["role"], "content": message.get("content") or ""}
        if message.get("thinking"):
            plain["reasoning_content"] = message["thinking"]
        if message.get("tool_calls"):
            unanswered = [
                _call(call, number, f"{path}.tool_calls[{number}]") for number, call in enumerate(message["tool_calls"])
            ]
            plain["tool_calls"] = list(unanswered)
        found.append(plain)
    return found


def _checked(given: Any, path: str) -> dict[str, Any]:
    require_type(given, dict, path)
    message = without_neutral(given, OF_A_MESSAGE, path)
    role = required(message, "role", path, str)
    if role not in _ROLES:
        raise FieldError(f"{path}.role must be {', '.join(_ROLES)}.", field=f"{path}.role")
    own = {"assistant": ("thinking", "tool_calls"), "tool": ("tool_name", "tool_call_id")}.get(role, ())
    refuse_others({name: value for name, value in message.items() if value != []}, ("role", "content", *own), path)
    for name in ("content", "thinking", "tool_name", "tool_call_id"):
        if message.get(name) is not None:
            require_type(message[name], str, f"{path}.{name}")
    if message.get("tool_calls") is not None:
        require_type(message["tool_calls"], list, f"{path}.tool_calls")
    if message.get("content") is None and role != "assistant":
        required(message, "content", path)
    return message


def _call(given: Any, number: int, path: str) -> dict[str, Any]:
    require_type(given, dict, path)
    function = required(given, "function", path, dict)
    name = required(function, "name", f"{path}.function", str)
    arguments = function.get("arguments")
    if arguments is not None:
        require_type(arguments, dict, f"{path}.function.arguments")
    call_id = given.get("id")
    if call_id is not None:
        require_type(call_id, str, f"{path}.id")
    function = {"name": name, "arguments": arguments or {}}
    return {"id": call_id or f"call_{number}", "type": "function", "function": function}


def _result(message: Mapping[str, Any], unanswered: list[dict[str, Any]]) -> dict[str, Any]:
    """The message of a tool; the call that it answers is no longer among the `unanswered`."""
    name, call_id = message.get("tool_name"), message.get("tool_call_id")
    call = next((call for call in unanswered if name is None or call["function"]["name"] == name), None)
    if call is not None:
        unanswered.remove(call)
        call_id = call_id or call["id"]
    named = {"name": name} if name is not None else {}
    answers = {"tool_call_id": call_id} if call_id is not None else {}
    return {"role": "tool", "content": message["content"], **named, **answers}
