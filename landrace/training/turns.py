"""Turns of a conversation, as OpenAI and ShareGPT write them, into the messages that chat templates read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from landrace.data import check_values, kind
from landrace.errors import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    **{role: role for role in ROLES},
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "tool_response": "tool",
}
_CALLS = ("function_call", "tool_call")
_ALIASES = ("chatgpt", "bing", "bard")
_LEARNED_KEYS = ("weight", "train", "loss")
_UNKNOWN_WEIGHTS = (
    *("mask", "loss_mask", "loss_weight", "loss_scale", "train_detail", "train_on_turn"),
    *("label", "kto_tag", "chosen", "rejected", "score", "reward", "rank"),
)
_SWITCH: Mapping[Any, bool] = {
    **dict.fromkeys((0, "0", "0.0", "false"), False),
    **dict.fromkeys((1, "1", "1.0", "true"), True),
}
"""What 'weight' and 'train' may be; False and 0.0 equal 0. Text, because cells of a CSV are text."""
_MEDIA = ("image_url", "image", "input_image", "video", "video_url", "audio", "input_audio", "file")

Message = dict[str, Any]


@dataclass(frozen=True)
class Turns:
    """Messages in the template's form; for each whether its row asks to learn it (None where it does not say)."""

    messages: tuple[Message, ...]
    learned: tuple[bool | None, ...]
    remarks: tuple[str, ...] = ()


def read_turns(value: object, name: str, where: str) -> Turns:
    """The turns of a list under the key `name`. A turn with 'from' is ShareGPT's, with 'role' OpenAI's; they may have
    'content' or 'value'. DataError names the turn."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise DataError(f"{where}: '{name}' is {kind(value)}, not a list of messages.")
    if not value:
        raise DataError(f"{where}: '{name}' is empty: it needs at least one message.")
    messages, learned, remarks = [], [], []
    calls: set[str] = set()
    for number, turn in enumerate(value, start=1):
        place = f"message {number}"
        if not isinstance(turn, dict):
            raise DataError(f"{where}: {place} is {kind(turn)}, not an object.")
        message = {key: item for key, item in turn.items() if item is not None}
        learned.append(_learned_turn(message, place, where))
        if "from" in message and "role" not in message:
            remarks += _sharegpt(message, place, where)
        messages.append(_message(message, place, where))
        _check_tool_answer(message, calls, place, where)
    return Turns(tuple(messages), tuple(learned), tuple(remarks))


def read_switch(value: Any, name: str, where: str) -> bool | None:
    """Whether a 'weight' or 'train' says that something is learned; None for null and an empty cell. DataError for any
    other value, which nobody here could honour."""
    if value is None or value == "":
        return None
    text = value.strip().casefold() if isinstance(value, str) else value
    if not isinstance(text, str | int | float) or text not in _SWITCH:
        raise DataError(
            f"{where}: {name} is {json.dumps(value, default=kind)}, which is neither 0 nor 1.",
            hint="1 learns it and 0 leaves it out; shares of a weight are not supported.",
        )
    return _SWITCH[text]


def read_tools(value: Any, name: str, where: str) -> tuple[Mapping[str, Any], ...] | None:
    """Tool descriptions from a list or its JSON text; bare functions are wrapped as OpenAI wraps them."""
    if value is None or value == "":
        return None
    tools = _parsed(value, f"'{name}'", where)
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError(f"{where}: '{name}' is not a list of objects.")
    wrapped = [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]
    for tool in wrapped:
        if not (isinstance(tool["function"], dict) and isinstance(tool["function"].get("name"), str)):
            raise DataError(f"{where}: '{name}' has a tool without a 'name'.")
    return tuple(wrapped) or None


def read_text(value: object, name: str, where: str) -> str:
    """A text that says something; DataError for one that is missing, empty or no text."""
    if value is None:
        raise DataError(f"{where}: {name} is missing.")
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} is {kind(value)}, not a string.")
    if not value.strip():
        raise DataError(f"{where}: {name} is empty.")
    return value


def _learned_turn(message: Message, place: str, where: str) -> bool | None:
    """Takes the keys that say whether a turn is learned out of the message, and says it."""
    for key in _UNKNOWN_WEIGHTS:
        if key in message:
            raise DataError(
                f"{where}: '{key}' of {place} would change what is learned, and is not supported.",
                hint="Say 'weight': 0 or 1, or leave the key out.",
            )
    given = [read_switch(message.pop(key), f"'{key}' of {place}", where) for key in _LEARNED_KEYS if key in message]
    said = {value for value in given if value is not None}
    if len(said) > 1:
        raise DataError(f"{where}: {place} says both that it is learned and that it is not.")
    return said.pop() if said else None


def _sharegpt(message: Message, place: str, where: str) -> list[str]:
    """Turns 'from' and 'value' into 'role' and 'content', in place; returns what should be said of it."""
    speaker = message.pop("from")
    role = SHAREGPT_ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise DataError(
            f"{where}: 'from' of {place} is {json.dumps(speaker, ensure_ascii=False)}, which is no known speaker.",
            hint=f"Known are {', '.join(SHAREGPT_ROLES)}.",
        )
    if "value" not in message and "content" not in message:
        raise DataError(f"{where}: {place} has neither 'value' nor 'content'.")
    if "value" in message:
        if "content" in message:
            raise DataError(f"{where}: {place} has both 'value' and 'content'.")
        message["content"] = message.pop("value")
    message["role"] = role
    if speaker in _CALLS:
        calls = _parsed(message.pop("content"), f"the call of {place}", where)
        message["tool_calls"] = calls if isinstance(calls, list) else [calls]
    return [f"the speaker '{speaker}' is read as the assistant"] if speaker in _ALIASES else []


def _message(message: Message, place: str, where: str) -> Message:
    """Checks a message and brings it into the form that templates read, in place."""
    role = read_text(message.get("role"), f"'role' of {place}", where)
    if role == "function":
        role = message["role"] = "tool"
    if role not in ROLES:
        meant = SHAREGPT_ROLES.get(role.casefold())
        raise DataError(
            f"{where}: the role of {place} is '{role}', which is none of {', '.join(ROLES)}.",
            hint=f"Write '{meant}'." if meant else None,
        )
    if isinstance(message.get("content"), list):
        _join_parts(message, message.pop("content"), place, where)
    if "function_call" in message:
        message["tool_calls"] = [message.pop("function_call")]
    if "tool_calls" in message:
        calls = message.pop("tool_calls")
        if not isinstance(calls, list):
            raise DataError(f"{where}: 'tool_calls' of {place} is {kind(calls)}, not a list.")
        if calls and role != "assistant":
            raise DataError(f"{where}: {place} calls a tool, but is the {role}'s.")
        if calls:
            message["tool_calls"] = [
                _call(call, f"call {number} of {place}", where) for number, call in enumerate(calls, start=1)
            ]
    _check_content(message, role, place, where)
    return message


def _check_content(message: Message, role: str, place: str, where: str) -> None:
    content = message.get("content")
    if message.get("tool_calls") and (content is None or content == ""):
        return
    if role == "assistant" or content is None:
        read_text(content, f"'content' of {place}", where)
    elif not isinstance(content, str):
        raise DataError(f"{where}: 'content' of {place} is {kind(content)}, not a string.")


def _join_parts(message: Message, parts: list[Any], place: str, where: str) -> None:
    """Parts of a content: texts are joined as they stand, thoughts and calls go where messages have them."""
    texts: dict[str, list[str]] = {"text": [], "reasoning": []}
    calls: list[Any] = []
    for part in parts:
        form = part.get("type") if isinstance(part, dict) else None
        if form in _MEDIA:
            raise DataError(
                f"{where}: {place} has a part of type '{form}', and only text can be learned from.",
                hint="Leave such rows out.",
            )
        value = part.get("text", part.get("value")) if isinstance(part, dict) else None
        if form not in (*texts, "tool_call") or not isinstance(value, str):
            raise DataError(f"{where}: 'content' of {place} is a list that holds something else than text parts.")
        if form == "tool_call":
            called = _parsed(value, f"the call of {place}", where)
            calls += called if isinstance(called, list) else [called]
        else:
            texts[form].append(value)
    if texts["text"]:
        message["content"] = "".join(texts["text"])
    for key, found in (("reasoning_content", "".join(texts["reasoning"])), ("tool_calls", calls)):
        if found and key in message:
            raise DataError(f"{where}: {place} has '{key}' and parts of the same meaning.")
        if found:
            message[key] = found


def _call(value: object, name: str, where: str) -> Message:
    """One tool call with its arguments as an object, as templates expect them."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: {name} is {kind(value)}, not an object with name and arguments.")
    call = {key: item for key, item in value.items() if item is not None}
    bare = "function" not in call
    function = call if bare else call["function"]
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or "arguments" not in function:
        raise DataError(f"{where}: {name} has no name and arguments.")
    arguments = _parsed(function["arguments"], f"'arguments' of {name}", where)
    if not isinstance(arguments, dict):
        raise DataError(f"{where}: 'arguments' of {name} is {kind(arguments)}, not an object.")
    outer = {key: call[key] for key in ("id",) if bare and key in call}
    inner = {key: item for key, item in function.items() if not (bare and key in ("id", "type"))}
    function = {**inner, "arguments": arguments}
    return {"type": "function", **outer, "function": function} if bare else {**call, "function": function}


def _check_tool_answer(message: Message, calls: set[str], place: str, where: str) -> None:
    """A tool's answer that names a call must stand behind it. `calls` gathers the ids."""
    answered = message.get("tool_call_id")
    if answered is not None and (not isinstance(answered, str) or answered not in calls):
        raise DataError(f"{where}: 'tool_call_id' of {place} is '{answered}', which answers no call before it.")
    calls.update(call["id"] for call in message.get("tool_calls", ()) if isinstance(call.get("id"), str))


def _parsed(value: Any, name: str, where: str) -> Any:
    """What a text of JSON holds; anything but a text as it is."""
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {name} is not JSON.") from error
    check_values({name.strip("'"): parsed}, where)
    return parsed
