"""`Chat`: what a call asks of a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from landrace.errors import RequestError
from landrace.server.chats.tool_choice import ToolChoice
from landrace.text.guides import Guide

Thoughts = Literal["on", "off", "off if it can", None]
"""Whether the model is to think; None: as it does by itself."""


@dataclass(frozen=True)
class Chat:
    """Messages and tools are in the form of OpenAI's chats, which is that of `text`."""

    messages: Sequence[dict[str, Any]]
    tools: Sequence[dict[str, Any]] = ()
    choice: ToolChoice = field(default_factory=ToolChoice)
    said: Guide | None = None
    """What the answer is held to, or what it says where it calls no tool."""
    thoughts: Thoughts = None
    effort: str | None = None
    """How much to think, in a word that the model's template knows."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """Further ones of the template."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What the API calls the fields that errors of the house are about, where it calls them otherwise."""


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Errors of a field are said of what the API calls it."""
    try:
        yield
    except RequestError as error:
        error.field = names.get(error.field or "", error.field)
        raise
