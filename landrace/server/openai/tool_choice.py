"""`tool_choice` of chats and responses, which name a tool in two ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from landrace.server.chats.tool_choice import ToolChoice
from landrace.server.fields import refuse_others, required
from landrace.server.http.errors import FieldError

NameOf = Callable[[Any], str | None]
"""From an object that names a tool to the name; None for anything else."""
_MODES = ("auto", "required")


def tool_choice(value: Any, tools: Sequence[Mapping[str, Any]], parallel: bool, name_of: NameOf) -> ToolChoice:
    """What it says, where `tools` are declared and may be called in `parallel` or not. Raises FieldError."""
    if value in ("auto", "none", "required"):
        return ToolChoice(none=value == "none", must=value == "required", several=parallel).checked(tools)
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        return _allowed(value, parallel, name_of).checked(tools)
    name = name_of(value)
    if name is None:
        raise FieldError(
            'tool_choice must be "auto", "none", "required", a function, as {"type": "function", ...} with its name, '
            'or functions, as {"type": "allowed_tools", ...}.',
            field="tool_choice",
        )
    return ToolChoice(must=True, names=(name,), several=False).checked(tools)


def nested_name(value: Any) -> str | None:
    """The name in `{"type": "function", "function": {"name": ...}}`."""
    if not isinstance(value, dict) or value.keys() != {"type", "function"} or value["type"] != "function":
        return None
    function = value["function"]
    name = function.get("name") if isinstance(function, dict) and function.keys() == {"name"} else None
    return name if isinstance(name, str) else None


def flat_name(value: Any) -> str | None:
    """The name in `{"type": "function", "name": ...}`."""
    if not isinstance(value, dict) or value.keys() != {"type", "name"} or value["type"] != "function":
        return None
    return value["name"] if isinstance(value["name"], str) else None


def _allowed(value: Mapping[str, Any], parallel: bool, name_of: NameOf) -> ToolChoice:
    path = "tool_choice"
    if name_of is nested_name:
        refuse_others(value, ("type", "allowed_tools"), path)
        value = {"type": None, **required(value, "allowed_tools", path, dict)}
        path = f"{path}.allowed_tools"
    refuse_others(value, ("type", "mode", "tools"), path)
    mode = required(value, "mode", path, str)
    if mode not in _MODES:
        raise FieldError(f"{path}.mode must be {' or '.join(_MODES)}.", field=f"{path}.mode")
    names = [name_of(tool) for tool in required(value, "tools", path, list)]
    if not names or None in names:
        raise FieldError(f"{path}.tools must name functions, one or more.", field=f"{path}.tools")
    return ToolChoice(must=mode == "required", names=tuple(filter(None, names)), several=parallel)
