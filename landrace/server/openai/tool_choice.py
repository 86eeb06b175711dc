"""`ToolChoice`: which tools a model may call, or must."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from landrace.server.http.errors import FieldError


@dataclass(frozen=True)
class ToolChoice:
    """`named`: the only tool that may be called. `must`: whether one has to be called."""

    none: bool = False
    must: bool = False
    named: str | None = None

    @staticmethod
    def of(value: Any, tools: Sequence[Mapping[str, Any]]) -> ToolChoice:
        """What `tool_choice` says, where `tools` are declared. Raises FieldError."""
        if value in ("auto", "none"):
            return ToolChoice(none=value == "none")
        name = _named(value)
        if value != "required" and name is None:
            raise FieldError(
                'tool_choice must be "auto", "none", "required" or {"type": "function", "function": {"name": ...}}.',
                field="tool_choice",
            )
        if not tools:
            raise FieldError("tool_choice asks for a call, and there are no tools.", field="tool_choice")
        if name is not None and name not in (tool["function"]["name"] for tool in tools):
            raise FieldError(f"tool_choice names {name!r}, which is none of the tools.", field="tool_choice")
        return ToolChoice(must=True, named=name)


def _named(value: Any) -> str | None:
    """The name in `{"type": "function", "function": {"name": ...}}`; None for anything else."""
    if not isinstance(value, dict) or value.keys() != {"type", "function"} or value["type"] != "function":
        return None
    function = value["function"]
    name = function.get("name") if isinstance(function, dict) and function.keys() == {"name"} else None
    return name if isinstance(name, str) else None
