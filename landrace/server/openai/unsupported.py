"""Fields that are not implemented, and which values of them ask for nothing and are therefore taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from landrace.server.http.errors import FieldError, require_type

Neutral = tuple[Any, ...] | type
"""The values that ask for nothing besides null. A type: the field is a label that changes no answer, so any of them."""

OF_A_CALL: Mapping[str, Neutral] = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "metadata": dict,
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "prompt_cache_key": str,
    "prompt_cache_options": (),
    "prompt_cache_retention": str,
    "reasoning_effort": (),
    "safety_identifier": str,
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "user": str,
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Of a body, where its endpoint does not honour them: tools are for chats. What a choice of tools means without tools
is nothing; with them, `tools` is refused first."""

OF_A_MESSAGE: Mapping[str, Neutral] = {
    "annotations": list,
    "audio": (),
    "function_call": (),
    "refusal": ("",),
}
"""Of a message: what clients keep of an answer and send back with it."""


def without_neutral(fields: Mapping[str, Any], table: Mapping[str, Neutral], inside: str = "") -> dict[str, Any]:
    """`fields` without those of `table`. `inside` is the path of the object they are in.

    Raises FieldError for a field of the table that asks for something.
    """
    for name in table:
        if fields.get(name) is not None:
            _refuse_unless_neutral(f"{inside}.{name}" if inside else name, fields[name], table[name])
    return {name: value for name, value in fields.items() if name not in table}


def _refuse_unless_neutral(field: str, value: Any, neutral: Neutral) -> None:
    if isinstance(neutral, type):
        require_type(value, neutral, field)
        return
    # Of the same type as well: in Python true equals 1.
    if not any(type(value) is type(one) and value == one for one in neutral):
        allowed = f" other than as {' or '.join(map(json.dumps, neutral))}, which asks for nothing" if neutral else ""
        raise FieldError(f"{field} is not supported{allowed}.", field=field, code="unsupported_parameter")
