"""Messages, system prompts and tools of Anthropic's API in the form of the house."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from landrace.server.chats.tools import check_tool_name
from landrace.server.fields import Neutral, check_flag, refuse_others, required, without_neutral
from landrace.server.http.errors import FieldError, require_type

_ROLES = ("user", "assistant", "system")
_OF_BLOCK: Mapping[str, Mapping[str, Neutral]] = {
    "text": {"cache_control": dict, "citations": ([],)},
    "thinking": {"cache_control": dict, "signature": str},
    "tool_use": {"cache_control": dict, "caller": ({"type": "direct"},), "toolset_name": ()},
    "tool_result": {"cache_control": dict, "toolset_name": ()},
}
"""The kinds of blocks, and what asks for nothing in each."""
_OF_ROLE = {"user": ("text", "tool_result"), "assistant": ("text", "thinking", "tool_use"), "system": ("text",)}
OF_A_TOOL: Mapping[str, Neutral] = {
    "allowed_callers": (["direct"],),
    "cache_control": dict,
    "defer_loading": (False,),
    "eager_input_streaming": (False,),
    "input_examples": ([],),
}
ERROR_MARK = "Error: "
"""Before the result of a tool that failed: templates have no other way to say so."""


def house_messages(system: Any, messages: Any) -> list[dict[str, Any]]:
    """A conversation. Turns of one role that follow each other are one. Raises FieldError with the path of what is
    wrong."""
    found = [] if system is None else [{"role": "system", "content": _texts(_blocks(system, "system", "system"))}]
    require_type(messages, list, "messages")
    turns: list[tuple[str, list[tuple[str, dict[str, Any]]]]] = []
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        require_type(message, dict, path)
        refuse_others(message, ("role", "content"), path)
        role = required(message, "role", path, str)
        if role not in _ROLES:
            raise FieldError(f"{path}.role must be {', '.join(_ROLES)}.", field=f"{path}.role")
        blocks = list(_blocks(required(message, "content", path), role, f"{path}.content"))
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    if not turns:
        raise FieldError("messages is empty; a conversation has one message or more.", field="messages")
    if turns[-1][0] == "assistant":
        where = f"messages[{len(messages) - 1}]"
        raise FieldError(
            f"{where} is the assistant's: an answer that is to go on is not supported.",
            field=where,
            code="unsupported_parameter",
        )
    for role, blocks in turns:
        found.extend([_assistant(blocks)] if role == "assistant" else _spoken(role, blocks))
    return found


def house_tools(tools: Any) -> list[dict[str, Any]]:
    """Declarations of functions. Raises FieldError with the path of what is wrong."""
    require_type(tools, list, "tools")
    names: set[str] = set()
    return [_tool(tool, names, f"tools[{index}]") for index, tool in enumerate(tools)]


def _tool(given: Any, names: set[str], path: str) -> dict[str, Any]:
    require_type(given, dict, path)
    kind = given.get("type")
    if kind not in (None, "custom"):
        where = f"{path}.type"
        raise FieldError(
            f"{where} {str(kind)[:60]!r} is a tool of Anthropic's servers; declare functions by their input_schema.",
            field=where,
            code="unsupported_parameter",
        )
    tool = without_neutral(given, OF_A_TOOL, path)
    refuse_others(tool, ("type", "name", "description", "input_schema", "strict"), path)
    check_tool_name(required(tool, "name", path), names, f"{path}.name")
    schema = required(tool, "input_schema", path, dict)
    check_flag(tool, "strict", path)
    function = {"name": tool["name"], "parameters": schema}
    if tool.get("description") is not None:
        require_type(tool["description"], str, f"{path}.description")
        function["description"] = tool["description"]
    if tool.get("strict"):
        function["strict"] = True
    return {"type": "function", "function": function}


def _blocks(content: Any, role: str, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The blocks of a content, each with its path."""
    if isinstance(content, str):
        yield path, {"type": "text", "text": content}
        return
    if not isinstance(content, list):
        raise FieldError(f"{path} must be a text or a list of blocks.", field=path, code="invalid_type")
    for index, given in enumerate(content):
        where = f"{path}[{index}]"
        require_type(given, dict, where)
        kind = required(given, "type", where, str)
        if kind not in _OF_ROLE[role]:
            raise FieldError(
                f"{where} is {kind[:60]!r}; here are only {', '.join(_OF_ROLE[role])}.",
                field=where,
                code="unsupported_parameter",
            )
        block = without_neutral(given, _OF_BLOCK[kind], where)
        _check(block, kind, where)
        yield where, block


def _check(block: Mapping[str, Any], kind: str, path: str) -> None:
    if kind in ("text", "thinking"):
        refuse_others(block, ("type", kind), path)
        required(block, kind, path, str)
    elif kind == "tool_use":
        refuse_others(block, ("type", "id", "name", "input"), path)
        for name, type_ in (("id", str), ("name", str), ("input", dict)):
            required(block, name, path, type_)
    else:
        refuse_others(block, ("type", "tool_use_id", "content", "is_error"), path)
        required(block, "tool_use_id", path, str)
        check_flag(block, "is_error", path)


def _texts(blocks: Iterator[tuple[str, dict[str, Any]]] | Sequence[tuple[str, dict[str, Any]]]) -> Any:
    """One text as it is, several as parts."""
    texts = [block["text"] for _, block in blocks]
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _assistant(blocks: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    thoughts = [block["thinking"] for _, block in blocks if block["type"] == "thinking"]
    calls = [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": block["input"]},
        }
        for _, block in blocks
        if block["type"] == "tool_use"
    ]
    return {
        "role": "assistant",
        "content": "".join(block["text"] for _, block in blocks if block["type"] == "text"),
        **({"reasoning_content": "".join(thoughts)} if thoughts else {}),
        **({"tool_calls": calls} if calls else {}),
    }


def _spoken(role: str, blocks: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """What a user or the system says, and the results of tools among it, in their order."""
    said: list[tuple[str, dict[str, Any]]] = []
    for path, block in blocks:
        if block["type"] == "text":
            said.append((path, block))
            continue
        if said:
            yield {"role": role, "content": _texts(said)}
            said = []
        yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": _result(block, path)}
    if said or not blocks:
        yield {"role": role, "content": _texts(said)}


def _result(block: Mapping[str, Any], path: str) -> Any:
    content = block.get("content")
    found = "" if content is None else _texts(list(_blocks(content, "system", f"{path}.content")))
    if not block.get("is_error"):
        return found
    return ERROR_MARK + found if isinstance(found, str) else [{"type": "text", "text": ERROR_MARK}, *found]
