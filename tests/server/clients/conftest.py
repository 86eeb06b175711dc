"""A server whose models say what the clients are to read: thoughts, words, calls."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from reciting_model import ENDLESS, THINKING, write_reciting_model

ARGUMENTS = {"city": "Zürich", "days": 3}
CALL = f'{{"name": "get_weather", "arguments": {json.dumps(ARGUMENTS)}}}\n'
CALLS = [
    [":", "<think>", " Hm", " So", "</think>", "Let me look.", "<tool_call>", CALL, "</tool_call>"],
    ["\n", "Sure."],
]
"""Thinks, says something, calls a tool; without thoughts it says "Sure."."""
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
OTHER = {"type": "object", "properties": {}}
QUESTION = "How is the weather?"


@dataclass(frozen=True)
class Reciting:
    """A server with models that recite."""

    server: Any
    calls: str
    endless: str
    arguments: dict[str, Any]
    schema: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.server.url)


@pytest.fixture(scope="session")
def reciting(start_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Reciting:
    path = tmp_path_factory.mktemp("reciting")
    folders = [
        write_reciting_model(path / name, path / f"{name} files", chains, THINKING)
        for name, chains in (("calls", CALLS), ("endless", ENDLESS))
    ]
    server = start_server(*map(str, folders), "--max-length", "2000", ledger=path / "usage.db")
    calls, endless = (model.id for model in server.client.models.list().data)
    return Reciting(server, calls, endless, ARGUMENTS, SCHEMA)
