"""`call_guide`: a guide of answers that call tools, in the form of the model's family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from landrace.errors import RequestError
from landrace.text.answers.declared_tools import DeclaredTool
from landrace.text.answers.forced import CallRules
from landrace.text.answers.form import AnswerForm
from landrace.text.answers.grammar import CONTENT, Grammar, State
from landrace.text.answers.lark import ANY, SPACE, Lark, either
from landrace.text.guides import Guide

if TYPE_CHECKING:
    from landrace.text.tokenizer import Tokenizer

_NEXT_MESSAGE = "<|start|>assistant"
_PREAMBLE = ("<|channel|>commentary<|message|>", "<|end|><|start|>assistant")
_FINAL = "<|channel|>final<|message|>"


def call_guide(
    tokenizer: Tokenizer,
    form: AnswerForm,
    names: Sequence[str] | None = None,
    *,
    several: bool = True,
    amid_text: bool = False,
    or_said: Guide | None = None,
) -> Guide:
    """Holds an answer to a call of one of the form's tools (of those called `names`, if given), with arguments that are
    valid under its schema; or, if `several`, to more calls.

    `amid_text`: or to none, and there may be text around them. `or_said`: or to this. Raises RequestError, field
    `tools`, for what the model's family cannot write.
    """
    lark = Lark(tokenizer)
    tools = [tool for tool in DeclaredTool.all_of(form.tools) if names is None or tool.name in names]
    rules = CallRules(lark, form.grammar, tools, several=several)
    framed = form.grammar.framed
    calls = rules.calls(amid_text=amid_text and not framed)
    ways = [calls]
    if amid_text and framed:
        ways = [_framed(lark, form.grammar, lark.terminal(ANY)), f"{_before_calls(lark, form.grammar)} {calls}"]
    if or_said is not None:
        ways.append(_framed(lark, form.grammar, _embedded(lark, or_said)))
    start = either(ways)
    if form.grammar.thought and _is_headed(form.grammar):
        start = f"({lark.mark(_NEXT_MESSAGE)})? {start}"  # behind a thought
    return lark.guide(start)


def _embedded(lark: Lark, guide: Guide) -> str:
    if guide.kind == "lark":
        raise RequestError(
            "A grammar cannot be followed beside tools, or where the model's family puts a frame around what is said.",
            field="guide",
            hint="Use a schema, a pattern or choices.",
        )
    return lark.of_guide(guide)


def _is_headed(grammar: Grammar) -> bool:
    """Whether every message has a header of its own (harmony)."""
    return _state(grammar, grammar.start).slot == "header"


def _state(grammar: Grammar, name: str) -> State:
    return next(state for state in grammar.states if state.name == name)


def _tag(grammar: Grammar) -> list[str]:
    """The marks of a tag around what is said, if the family has one (`Grammar.wrapped`)."""
    thought = grammar.thought.close if grammar.thought else ""
    return [exit.mark for exit in _state(grammar, CONTENT).exits if exit.to == CONTENT and exit.mark != thought]


def _framed(lark: Lark, grammar: Grammar, said: str) -> str:
    """`said` in the frame of the family."""
    if _is_headed(grammar):
        return f"{lark.mark(_FINAL)} {said}"
    if grammar.framed:
        ((opening, closing),) = (
            (one.mark, other.mark)
            for one in _state(grammar, grammar.start).exits
            for other in _state(grammar, one.to).exits
            if one.to == CONTENT and other.to == grammar.start
        )
        return f"{lark.mark(opening)} {said} {lark.mark(closing)}"
    if tag := _tag(grammar):
        opening, closing = tag
        return either([f"{SPACE} {lark.mark(opening)} {SPACE} {said} {SPACE} {lark.mark(closing)}", said])
    return said


def _before_calls(lark: Lark, grammar: Grammar) -> str:
    """What may be said before calls, in a family whose messages have frames."""
    text = lark.terminal(ANY)
    if _is_headed(grammar):
        opening, closing = _PREAMBLE
        return f"({lark.mark(opening)} {text} {lark.mark(closing)})?"
    return f"({_framed(lark, grammar, text)})?"
