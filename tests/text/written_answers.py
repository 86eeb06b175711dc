"""Answers as chat templates write them, and tools to be called in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from landrace.errors import RequestError
from landrace.text import ChatTemplate
from landrace.text.answers.choice import answer_text
from landrace.text.answers.grammar import Grammar

USER = {"role": "user", "content": "What is the weather like?"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a place.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Where."},
                    "days": {"type": "integer", "description": "How many."},
                    "share": {"type": "number", "description": "How much."},
                    "sure": {"type": "boolean", "description": "Yes or no."},
                    "hours": {"type": "array", "description": "When.", "items": {"type": "integer"}},
                    "options": {"type": "object", "description": "More.", "properties": {}},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "tell",
            "description": "Tells somebody something.",
            "parameters": {
                "type": "object",
                "properties": {"text": {"type": "string", "description": "What."}},
                "required": ["text"],
            },
        },
    },
]
CALLS: list[tuple[str, dict[str, Any]]] = [
    (
        "get_weather",
        {"city": "Zürich", "days": 3, "share": 0.5, "sure": True, "hours": [1, 2], "options": {"a": [None]}},
    ),
    ("tell", {"text": 'He said: "42",\n\n  then <left> & 你好 }]'}),
]
LONE = {"tool_call": "only one call"}
TURN_MARKS = ("<｜Assistant｜>", "<｜end▁of▁sentence｜>")
"""Control tokens around answers: a reader of tokens never sees them as text."""


def message(calls: Sequence[tuple[str, Mapping[str, Any]]], **more: Any) -> dict[str, Any]:
    """An assistant's message with calls."""
    entries = [
        {"id": f"functions.{name}:{n}", "type": "function", "function": {"name": name, "arguments": dict(arguments)}}
        for n, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": "", "tool_calls": entries, **more}


def written(template: ChatTemplate, grammar: Grammar, answer: Mapping[str, Any]) -> tuple[str, str] | str:
    """What stands before an answer, and the answer as a model would have written it, without the turn's end. Why not,
    where the template does not write it."""
    reason = ""
    for tools in (TOOLS, None):
        try:
            prompt = template.render([USER], tools=tools)
            whole = template.render([USER, answer], tools=tools, add_generation_prompt=False)
        except RequestError as error:
            reason = reason or error.message
            continue
        before, text = answer_text(prompt, whole, grammar.marks)
        for mark in TURN_MARKS:
            text = text.replace(mark, "")
        return before, text.removesuffix(_turn_end(template, tools))
    return reason


def _turn_end(template: ChatTemplate, tools: Any) -> str:
    said = "Landrace-7f3a"
    text = template.render([USER, {"role": "assistant", "content": said}], tools=tools, add_generation_prompt=False)
    end = text.rpartition(said)[2]
    for mark in TURN_MARKS:
        end = end.replace(mark, "")
    return end
