"""Conversations that were kept with consent, and what people said of their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from landrace.ledger.records import utc_now

Rating = Literal["up", "down"]


@dataclass(frozen=True)
class Exchange:
    """A conversation up to one answer of it."""

    response_id: str
    choice: int
    """Which of the answers to one call."""
    conversation: str
    """The same for all exchanges of one conversation."""
    model: str
    messages: Sequence[Mapping[str, Any]]
    """What was asked, as the OpenAI API writes it."""
    answer: Mapping[str, Any]
    """The assistant's message."""
    finish_reason: str
    tools: Sequence[Mapping[str, Any]] = ()
    key_id: str | None = None
    team: str | None = None
    created: datetime = field(default_factory=utc_now)


@dataclass(frozen=True)
class Feedback:
    """What somebody said of an answer."""

    response_id: str
    choice: int = 0
    rating: Rating | None = None
    correction: str | None = None
    """What the answer should have been."""
    comment: str | None = None
    key_id: str | None = None
    team: str | None = None
    created: datetime = field(default_factory=utc_now)
