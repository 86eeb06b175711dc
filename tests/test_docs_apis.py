"""The page of the other APIs names every field: those that are honoured, and what is taken of those that are not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from landrace.server.anthropic import schema as anthropic
from landrace.server.fields import Fields, Neutral
from landrace.server.ollama import schema as ollama
from landrace.server.ollama.embed import EmbedRequest
from landrace.server.responses import schema as responses

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "apis.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")}


def tables(section: str) -> Iterator[tuple[list[str], dict[str, str]]]:
    """The heads of each table of a section, and what it says of each name in its first column."""
    for table in re.findall(r"(?:^\|.*\|\n)+", SECTIONS[section], re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table.splitlines()]
        yield head, {name: says for names, says in rows for name in re.findall(r"`(\w+)`", names)}


def told(section: str, *head: str) -> dict[str, str]:
    """What the section's tables with this head say."""
    found: dict[str, str] = {}
    for names, says in tables(section):
        if tuple(names) == head:
            found |= says
    return found


def check(section: str, forms: list[type[Fields]], first: str = "field") -> None:
    honoured = {name for form in forms for name in form.model_fields}
    assert told(section, first, "meaning").keys() == honoured
    neutral = {name: values for form in forms for name, values in form.neutral.items() if name not in honoured}
    check_neutral(told(section, first, "taken, besides null"), neutral)


def check_neutral(says: Mapping[str, str], neutral: Mapping[str, Neutral]) -> None:
    assert says.keys() == neutral.keys()
    for name, values in neutral.items():
        if isinstance(values, type):
            assert "label" in says[name], name
        else:
            assert [json.loads(value) for value in re.findall("`([^`]*)`", says[name])] == [*values], name


def test_responses() -> None:
    check("Responses", [responses.ResponseRequest])
    inner = {**responses.Reasoning.neutral, **responses.Text.neutral}
    check_neutral(told("Responses", "inside of `reasoning` and `text`", "taken, besides null"), inner)


def test_messages() -> None:
    check("Anthropic's messages", [anthropic.MessagesRequest, anthropic.CountRequest])


def test_ollama() -> None:
    check("Ollama", [ollama.ChatRequest, ollama.GenerateRequest])
    check("Ollama", [ollama.Options], "option")
    assert told("Ollama", "field of vectors", "meaning").keys() == EmbedRequest.model_fields.keys()
