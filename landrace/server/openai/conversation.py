"""The form of the messages of a chat as they come over the wire, so that an error can name the place of the fault. What
they mean is the matter of `text`, which is as strict or stricter."""

from __future__ import annotations

from types import NoneType
from typing import Any

from landrace.server.chats.tools import check_tool_name
from landrace.server.fields import check_flag, required, without_neutral
from landrace.server.http.errors import FieldError, require_type
from landrace.server.openai.unsupported import OF_A_MESSAGE


def checked_messages(messages: Any) -> list[dict[str, Any]]:
    """The messages without the fields that say nothing. Raises FieldError with the path of what is wrong."""
    require_type(messages, list, "messages")
    if not messages:
        raise FieldError("messages is empty; a conversation has one message or more.", field="messages")
    return [_checked(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _checked(given: Any, path: str) -> dict[str, Any]:
    require_type(given, dict, path)
    message = without_neutral(given, OF_A_MESSAGE, path)
    role = required(message, "role", path)
    require_type(role, str, f"{path}.role")
    if not role:
        raise FieldError(f"{path}.role is empty.", field=f"{path}.role")
    for name in ("name", "tool_call_id"):
        if message.get(name) is not None:
            require_type(message[name], str, f"{path}.{name}")
    calls = message.get("tool_calls")
    if calls is not None:
        require_type(calls, list, f"{path}.tool_calls")
        for index, call in enumerate(calls):
            _check_call(call, f"{path}.tool_calls[{index}]")
    if message.get("content") is not None:
        _check_content(message["content"], f"{path}.content")
    elif role != "assistant" and "content" not in message:
        required(message, "content", path)
    return message


def checked_tools(tools: Any) -> list[dict[str, Any]]:
    """Declarations of functions. Raises FieldError with the path of what is wrong."""
    require_type(tools, list, "tools")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        path = f"tools[{index}]"
        require_type(tool, dict, path)
        if tool.get("type", "function") != "function":
            raise FieldError(f"{path}.type must be function.", field=f"{path}.type", code="unsupported_parameter")
        function = required(tool, "function", path)
        require_type(function, dict, f"{path}.function")
        check_tool_name(required(function, "name", f"{path}.function"), names, f"{path}.function.name")
        if function.get("parameters") is not None:
            require_type(function["parameters"], dict, f"{path}.function.parameters")
        check_flag(function, "strict", f"{path}.function")
    return list(tools)


def _check_content(content: Any, path: str) -> None:
    if not isinstance(content, (str, list)):
        raise FieldError(f"{path} must be a text or a list of parts.", field=path, code="invalid_type")
    for index, part in enumerate(content if isinstance(content, list) else ()):
        where = f"{path}[{index}]"
        require_type(part, dict, where)
        kind = part.get("type", "text")
        if kind != "text":
            raise FieldError(f"{where} is {kind!r}; only text is supported.", field=where, code="unsupported_parameter")
        require_type(required(part, "text", where), str, f"{where}.text")


def _check_call(call: Any, path: str) -> None:
    require_type(call, dict, path)
    if call.get("type", "function") != "function":
        raise FieldError(f"{path}.type must be function.", field=f"{path}.type", code="unsupported_parameter")
    function = required(call, "function", path)
    require_type(function, dict, f"{path}.function")
    require_type(required(function, "name", f"{path}.function"), str, f"{path}.function.name")
    arguments = function.get("arguments")
    if not isinstance(arguments, (str, dict, NoneType)):
        where = f"{path}.function.arguments"
        raise FieldError(f"{where} must be JSON text or an object.", field=where, code="invalid_type")
