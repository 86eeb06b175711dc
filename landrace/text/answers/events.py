"""What an answer is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reasoning:
    """A piece of the model's thoughts."""

    text: str


@dataclass(frozen=True)
class Content:
    """A piece of what the model says to the reader."""

    text: str


@dataclass(frozen=True)
class ToolCall:
    """One whole call of a tool. `id` is the model's own where its family writes one, else drawn at random."""

    id: str
    name: str
    arguments: dict[str, Any]


Event = Reasoning | Content | ToolCall


@dataclass(frozen=True)
class Parts:
    """An answer taken apart."""

    reasoning: str
    content: str
    calls: tuple[ToolCall, ...]

    @staticmethod
    def of(events: Iterable[Event]) -> Parts:
        """Puts together all events of an answer, in order."""
        reasoning, content, calls = "", "", []
        for event in events:
            if isinstance(event, Reasoning):
                reasoning += event.text
            elif isinstance(event, Content):
                content += event.text
            else:
                calls.append(event)
        return Parts(reasoning, content, tuple(calls))


def join(passages: list[Event], event: Event) -> None:
    """Adds an event to those before it: a piece of the same kind as the last goes on with it."""
    last = passages[-1] if passages else None
    if isinstance(event, Content) and isinstance(last, Content):
        passages[-1] = Content(last.text + event.text)
    elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
        passages[-1] = Reasoning(last.text + event.text)
    else:
        passages.append(event)
