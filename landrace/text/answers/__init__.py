"""What a model says, taken apart: thoughts, content and tool calls, whatever grammar its family writes them in."""

from __future__ import annotations

from landrace.text.answers.choice import answer_grammar
from landrace.text.answers.events import Content, Event, Parts, Reasoning, ToolCall, join
from landrace.text.answers.form import AnswerForm, answer_form
from landrace.text.answers.guided import call_guide
from landrace.text.answers.machine import AnswerParser

__all__ = [
    "AnswerForm",
    "AnswerParser",
    "Content",
    "Event",
    "Parts",
    "Reasoning",
    "ToolCall",
    "answer_form",
    "answer_grammar",
    "call_guide",
    "join",
]
