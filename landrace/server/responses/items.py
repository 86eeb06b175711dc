"""What goes into a response, as messages of the house: texts, items of earlier answers, results of tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from landrace.server.chats.tools import check_tool_name
from landrace.server.fields import Neutral, check_flag, refuse_others, required, without_neutral
from landrace.server.http.errors import FieldError, require_type

_STATUS: Mapping[str, Neutral] = {"id": str, "status": ("completed", "incomplete", "in_progress")}
_DIRECT: Mapping[str, Neutral] = {**_STATUS, "caller": ({"type": "direct"},), "namespace": (), "async": (False,)}
OF_AN_ITEM: Mapping[str, Mapping[str, Neutral]] = {
    "message": {**_STATUS, "phase": str},
    "reasoning": _STATUS,
    "function_call": _DIRECT,
    "function_call_output": {**_DIRECT, "name": str},
}
"""The kinds of items, and what asks for nothing in each."""
_ROLES = ("user", "assistant", "system", "developer")
_TEXTS = ("input_text", "output_text", "text")
_OF_TEXT: Mapping[str, Neutral] = {"annotations": list, "logprobs": list, "prompt_cache_breakpoint": ()}
OF_A_TOOL: Mapping[str, Neutral] = {
    "allowed_callers": (["direct"],),
    "async": (False,),
    "defer_loading": (False,),
    "output_schema": (),
}


def house_messages(instructions: str | None, given: Any) -> list[dict[str, Any]]:
    """A conversation. What an assistant thought, said and called before anybody else spoke is one message. Raises
    FieldError with the path of what is wrong."""
    messages = [] if instructions is None else [{"role": "system", "content": instructions}]
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list):
        raise FieldError("input must be a text or a list of items.", field="input", code="invalid_type")
    if not given:
        raise FieldError("input is empty; a conversation has one item or more.", field="input")
    for index, item in enumerate(given):
        _add(item, messages, f"input[{index}]")
    return messages


def house_tools(tools: Any) -> list[dict[str, Any]]:
    """Declarations of functions. Raises FieldError with the path of what is wrong."""
    require_type(tools, list, "tools")
    names: set[str] = set()
    return [_tool(tool, names, f"tools[{index}]") for index, tool in enumerate(tools)]


def _tool(given: Any, names: set[str], path: str) -> dict[str, Any]:
    require_type(given, dict, path)
    kind = required(given, "type", path, str)
    if kind != "function":
        where = f"{path}.type"
        raise FieldError(
            f"{where} is {kind[:60]!r}; only functions are supported.", field=where, code="unsupported_parameter"
        )
    tool = without_neutral(given, OF_A_TOOL, path)
    refuse_others(tool, ("type", "name", "description", "parameters", "strict"), path)
    check_tool_name(required(tool, "name", path), names, f"{path}.name")
    for name, type_ in (("description", str), ("parameters", dict)):
        if tool.get(name) is not None:
            require_type(tool[name], type_, f"{path}.{name}")
    check_flag(tool, "strict", path)
    function = {name: value for name, value in tool.items() if name != "type" and value is not None}
    return {"type": "function", "function": function}


def _add(given: Any, messages: list[dict[str, Any]], path: str) -> None:
    require_type(given, dict, path)
    kind = given.get("type") or ("message" if "role" in given else "")
    if not isinstance(kind, str) or kind not in OF_AN_ITEM:
        raise FieldError(
            f"{path} is {str(kind)[:60]!r}; here are only {', '.join(OF_AN_ITEM)}.",
            field=path,
            code="unsupported_parameter",
        )
    item = without_neutral(given, OF_AN_ITEM[kind], path)
    if kind == "message":
        refuse_others(item, ("type", "role", "content"), path)
        _add_message(item, messages, path)
    elif kind == "reasoning":
        refuse_others(item, ("type", "summary", "content", "encrypted_content"), path)
        _turn(messages, "reasoning_content")["reasoning_content"] = _thought(item, path)
    elif kind == "function_call":
        refuse_others(item, ("type", "call_id", "name", "arguments"), path)
        call_id, name, arguments = (required(item, key, path, str) for key in ("call_id", "name", "arguments"))
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        _turn(messages, "tool_calls").setdefault("tool_calls", []).append(call)
    else:
        refuse_others(item, ("type", "call_id", "output"), path)
        call_id = required(item, "call_id", path, str)
        content = _content(required(item, "output", path), f"{path}.output")
        messages.append({"role": "tool", "tool_call_id": call_id, "content": content})


def _add_message(item: Mapping[str, Any], messages: list[dict[str, Any]], path: str) -> None:
    role = required(item, "role", path, str)
    if role not in _ROLES:
        raise FieldError(f"{path}.role must be {', '.join(_ROLES)}.", field=f"{path}.role")
    content = _content(required(item, "content", path), f"{path}.content")
    if role == "assistant":
        _turn(messages, "content")["content"] = content
    else:
        messages.append({"role": role, "content": content})


_ORDER = ("reasoning_content", "content", "tool_calls")


def _turn(messages: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The assistant's message that takes `name`: the last one, unless it has that, or what comes behind it, already."""
    last = messages[-1] if messages else {"role": ""}
    behind = _ORDER[_ORDER.index(name) :]
    if last["role"] != "assistant" or (name != "tool_calls" and any(one in last for one in behind)):
        messages.append({"role": "assistant"})
    return messages[-1]


def _thought(item: Mapping[str, Any], path: str) -> str:
    """The text of a thought, or of its summary where that is all there is."""
    parts = item.get("content") or item.get("summary")
    if not parts and item.get("encrypted_content") is not None:
        where = f"{path}.encrypted_content"
        raise FieldError(f"{where} cannot be read here.", field=where, code="unsupported_parameter")
    name = "content" if item.get("content") else "summary"
    texts = []
    require_type(parts or [], list, f"{path}.{name}")
    for index, part in enumerate(parts or []):
        where = f"{path}.{name}[{index}]"
        require_type(part, dict, where)
        refuse_others(part, ("type", "text"), where)
        texts.append(required(part, "text", where, str))
    return "\n".join(texts)


def _content(content: Any, path: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise FieldError(f"{path} must be a text or a list of parts.", field=path, code="invalid_type")
    parts = []
    for index, given in enumerate(content):
        where = f"{path}[{index}]"
        require_type(given, dict, where)
        kind = required(given, "type", where, str)
        if kind not in _TEXTS:
            raise FieldError(
                f"{where} is {kind[:60]!r}; only text is supported.", field=where, code="unsupported_parameter"
            )
        part = without_neutral(given, _OF_TEXT, where)
        refuse_others(part, ("type", "text"), where)
        parts.append({"type": "text", "text": required(part, "text", where, str)})
    return parts[0]["text"] if len(parts) == 1 else parts
