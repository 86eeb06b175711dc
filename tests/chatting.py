"""Tiny models to chat with: one that thinks and answers, one that calls two tools and then speaks of their results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reciting_model import THINKING, write_reciting_model

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}},
]
ANSWER = "Some **bold** text, and the moon."
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "%s"}}\n</tool_call>'
SPEAKING = THINKING.replace(
    "{% if add_generation_prompt %}<|im_start|>assistant:",
    "{% if add_generation_prompt %}<|im_start|>assistant{% if messages[-1].role == 'tool' %};{% else %}:{% endif %}",
)
"""The answer to a tool begins otherwise than that to a user."""


def write_talker(folder: Path) -> Path:
    """Answers `ANSWER` to everything; without an end where `--think` limits its thoughts."""
    chain = [":", *ANSWER.split(" and ", 1)[0].replace(" ", "\n ").split("\n"), " and", " the moon", "."]
    return write_reciting_model(folder / "talker", folder / "talker files", [chain], THINKING)


def write_rambler(folder: Path) -> Path:
    """Says one word for ever."""
    return write_reciting_model(folder / "rambler", folder / "rambler files", [[":", " word", " word"]], THINKING)


def write_caller(folder: Path) -> Path:
    """Calls `weather` twice, and says "Sunny." when it is told of a result."""
    chains = [[":", CALL % "Nis", CALL % "Ohrid"], [";", "Sunny", "."]]
    return write_reciting_model(folder / "caller", folder / "caller files", chains, SPEAKING)


def write_tools(folder: Path) -> Path:
    file = folder / "tools.json"
    file.write_text(json.dumps(TOOLS))
    return file
