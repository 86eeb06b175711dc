"""What a row of training data teaches, whatever form its file has it in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ChatRow:
    """A conversation. Every assistant turn is an answer to learn but those in `context_only`."""

    where: str
    """File and line, for messages about this row."""
    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] | None = None
    context_only: frozenset[int] = frozenset()
    """Indices of assistant turns that are read and not learned."""
    remarks: tuple[str, ...] = field(default=(), compare=False)
    """What of the row was not used, or read as something else; a report says each once."""


@dataclass(frozen=True)
class CompletionRow:
    """Plain text and what should follow it."""

    where: str
    prompt: str
    completion: str
    remarks: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class TextRow:
    """A document, learned from its second token to its end."""

    where: str
    text: str
    remarks: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class ExcludedRow:
    """A row without anything to learn, by what it says of itself: it is counted and named."""

    where: str
    because: str
    remarks: tuple[str, ...] = field(default=(), compare=False)


Row = ChatRow | CompletionRow | TextRow | ExcludedRow


def rows_sha256(rows: Iterable[Row]) -> str:
    """Hash of what the rows teach, wherever they came from."""
    digest = hashlib.sha256()
    for row in rows:
        if isinstance(row, ChatRow):
            value: dict[str, Any] = {"messages": row.messages, "tools": row.tools}
            if row.context_only:
                value["context_only"] = sorted(row.context_only)
        elif isinstance(row, CompletionRow):
            value = {"prompt": row.prompt, "completion": row.completion}
        elif isinstance(row, TextRow):
            value = {"text": row.text}
        else:
            continue
        digest.update(json.dumps(value, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
