"""Tools as callers declare them."""

from __future__ import annotations

from landrace.server.http.errors import FieldError, require_type


def check_tool_name(name: object, others: set[str], field: str) -> None:
    """Adds a tool's name to the others. Raises FieldError for one that is declared twice or is not one word."""
    require_type(name, str, field)
    assert isinstance(name, str)
    if name in others or name.split() != [name]:
        raise FieldError(f"{field} is {'declared twice' if name in others else 'not one word'}.", field=field)
    others.add(name)
