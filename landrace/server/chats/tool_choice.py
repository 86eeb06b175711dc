"""`ToolChoice`: which tools a model may call, or must."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from landrace.server.http.errors import FieldError


@dataclass(frozen=True)
class ToolChoice:
    """`none`: the model is told of no tools. `must`: one has to be called."""

    none: bool = False
    must: bool = False
    names: tuple[str, ...] | None = None
    """The only tools that may be called; None: all that are declared."""
    several: bool = True
    """Whether there may be more than one call."""

    def checked(self, tools: Sequence[Mapping[str, Any]]) -> ToolChoice:
        """This choice, where `tools` are declared. Raises FieldError for one that they do not allow."""
        if (self.must or self.names is not None) and not tools:
            raise FieldError("tool_choice asks for a call, and there are no tools.", field="tool_choice")
        declared = {tool["function"]["name"] for tool in tools}
        for name in self.names or ():
            if name not in declared:
                raise FieldError(f"tool_choice names {name!r}, which is none of the tools.", field="tool_choice")
        return self
