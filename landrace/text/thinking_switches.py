"""Switches of a chat template for thoughts: on, off, and how much effort, under the names that the template reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from landrace.errors import RequestError
from landrace.text.chat_template import ChatTemplate

_SWITCHES: tuple[tuple[str, Any, Any], ...] = (
    ("enable_thinking", True, False),
    ("thinking", True, False),
    ("open_thinking", True, False),
    ("thinking_budget", -1, 0),
    ("thinking_mode", "enabled", "disabled"),
)
"""Name, and its values for on and for off."""
_EFFORTS = ("reasoning_effort", "thinking_effort")
_STRANGER = "landrace-7f3a"
"""An effort that no template knows."""
_ASKED = [{"role": "user", "content": "Hello"}]


def switched(template: ChatTemplate, on: bool) -> dict[str, Any]:
    """The template's variables that switch thoughts on or off. RequestError where it has no such switch."""
    values = {name: yes if on else no for name, yes, no in switches(template)}
    if not values:
        raise RequestError(
            f"This model's chat template has no switch that turns thoughts {'on' if on else 'off'}.",
            field="enable_thinking",
            hint="Limit them by thinking_budget, where the model thinks.",
        )
    return values


@lru_cache(maxsize=32)
def switches(template: ChatTemplate) -> tuple[tuple[str, Any, Any], ...]:
    """The template's variables that switch thoughts: their names, and their values for on and for off."""
    return tuple(
        (name, yes, no)
        for name, yes, no in _SWITCHES
        if _reads(template, name) and template.render(_ASKED, **{name: yes}) != template.render(_ASKED, **{name: no})
    )


def with_effort(template: ChatTemplate, effort: str, others: Mapping[str, Any]) -> dict[str, Any]:
    """The template's variables for this effort, in a prompt with `others`. RequestError where the template knows
    nothing of efforts, or not of this one."""
    names = [name for name in _EFFORTS if _reads(template, name)]
    if not names:
        raise RequestError("This model's chat template knows no reasoning_effort.", field="reasoning_effort")
    variables = dict.fromkeys(names, effort)
    source = "\n".join(template.sources.values())
    if f"'{effort}'" not in source and f'"{effort}"' not in source:
        # What the template does not name it may still write out, as some do with any word.
        text, strange = (
            template.render(_ASKED, **{**others, **dict.fromkeys(names, word)}) for word in (effort, _STRANGER)
        )
        if text == strange:
            raise RequestError(
                f"This model's chat template knows no reasoning_effort {effort[:40]!r}.", field="reasoning_effort"
            )
    return variables


def _reads(template: ChatTemplate, name: str) -> bool:
    """Whether the template reads a variable of this name, which is no message's field."""
    return any(re.search(rf"(?<![\w.'\"]){name}(?![\w'\"])", text) for text in template.sources.values())
