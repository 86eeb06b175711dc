"""Which grammar a model's answers are written in: the one that reads back what its chat template writes.

A template writes calls of earlier turns as the model writes them, so it is asked to write one, and the first grammar
that gives this call back is the model's. Of a template that declares tools and writes no calls, it is the grammar whose
marks stand in its source. No model is known by its name.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from landrace.errors import CheckpointError, RequestError
from landrace.text.answers.events import Reasoning, ToolCall
from landrace.text.answers.grammar import TOOL, Grammar, Thought
from landrace.text.answers.grammars import GRAMMARS, PLAIN, THOUGHTS
from landrace.text.answers.machine import AnswerParser
from landrace.text.chat_template import ChatTemplate

_NAME, _THOUGHT, _SAID = "landrace_2d5e", "Landrace-7f3a", "Landrace-9b1c"
_ARGUMENTS = {"key": _SAID, "sure": True, "n": [1, 2]}
_USER = {"role": "user", "content": "Hello"}
_CALL = {"id": f"functions.{_NAME}:0", "type": "function", "function": {"name": _NAME, "arguments": _ARGUMENTS}}
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "Does nothing.",
        "parameters": {
            "type": "object",
            "properties": {
                "key": {"type": "string", "description": "A word."},
                "sure": {"type": "boolean", "description": "Yes or no."},
                "n": {"type": "array", "description": "Numbers.", "items": {"type": "integer"}},
            },
            "required": ["key"],
        },
    },
}


def answer_grammar(template: ChatTemplate | None, added_tokens: Collection[str]) -> Grammar:
    """The grammar of a model with this template and these added tokens; `PLAIN` where nothing shows one."""
    if template is None:
        return PLAIN
    source = "\n".join(template.sources.values())
    thought = _thought(template, source, added_tokens)
    written, end = _write(template), _turn_end(template)
    read = [g for g in _with_thought(thought, source) if written and _reads(g, written[0], written[1], end)]
    if read:
        return read[0]
    shown = [g for g in _with_thought(thought, source) if _stands_in(source, g)]
    return max(shown, key=lambda g: len(g.marks), default=_with_thought(thought, source, (PLAIN,))[0])


def answer_text(prompt: str, whole: str, marks: Collection[str]) -> tuple[str, str]:
    """`whole`, a conversation that ends with an answer, cut where that begins: behind what it shares with `prompt`,
    and before the mark that the border falls into."""
    shared = min(len(prompt), len(whole))
    at = next((n for n in range(shared) if prompt[n] != whole[n]), shared)
    back = (size for mark in marks for size in range(1, len(mark)) if size <= at and whole.startswith(mark, at - size))
    at -= max(back, default=0)
    return whole[:at], whole[at:]


def _with_thought(thought: Thought | None, source: str, grammars: tuple[Grammar, ...] = GRAMMARS) -> list[Grammar]:
    found = [g if thought is None or g.thought else g.thinking(thought) for g in grammars]
    if thought is not None and "<response>" in source and "</response>" in source:
        found = [g if g.framed else g.wrapped("<response>", "</response>") for g in found]
    return found


def _thought(template: ChatTemplate, source: str, added_tokens: Collection[str]) -> Thought | None:
    for opening, closing in THOUGHTS:
        if closing in source or {opening, closing} <= set(added_tokens):
            return Thought(opening, closing, _end_of_thought(template, closing))
    return None


def _end_of_thought(template: ChatTemplate, closing: str) -> str:
    """What the template writes between a thought and what is said after it, from the thought's last word on."""
    message = {"role": "assistant", "content": _SAID, "reasoning_content": _THOUGHT}
    text = _rendered(template, [_USER, message], add_generation_prompt=False) or ""
    between = text.partition(_THOUGHT)[2].partition(_SAID)[0]
    return between if closing in between and _SAID in text else closing


def _write(template: ChatTemplate, content: str = "") -> tuple[str, str] | None:
    """The prompt of a question, and the conversation with a call for an answer; None where it cannot be written."""
    message = {"role": "assistant", "content": content, "tool_calls": [_CALL]}
    # Some templates write calls and leave it to the caller to declare tools.
    for tools in ([_TOOL], None):
        prompt = _rendered(template, [_USER], tools=tools)
        whole = _rendered(template, [_USER, message], tools=tools, add_generation_prompt=False)
        if prompt is not None and whole is not None:
            return prompt, whole
    return None


def _turn_end(template: ChatTemplate) -> str:
    """What the template writes behind an answer."""
    messages = [_USER, {"role": "assistant", "content": _SAID}]
    texts = (_rendered(template, messages, tools=tools, add_generation_prompt=False) for tools in (None, [_TOOL]))
    return next((text.rpartition(_SAID)[2] for text in texts if text), "")


def _rendered(template: ChatTemplate, messages: list[dict[str, Any]], **how: Any) -> str | None:
    try:
        return template.render(messages, **how)
    except (RequestError, CheckpointError):
        return None


def _reads(grammar: Grammar, prompt: str, whole: str, end: str) -> bool:
    before, answer = answer_text(prompt, whole.removesuffix(end), grammar.marks)
    parser = AnswerParser(grammar, grammar.begin(before), [_TOOL])
    events = [event for event in parser.push(answer) + parser.flush() if not isinstance(event, Reasoning)]
    called = [(event.name, event.arguments) for event in events if isinstance(event, ToolCall)]
    # What comes first is the call: text before it would be a mark that the grammar does not know.
    return called == [(_NAME, _ARGUMENTS)] and isinstance(events[0], ToolCall)


def _stands_in(source: str, grammar: Grammar) -> bool:
    """Whether all marks of the calls of a grammar stand in a template's source."""
    own = {mark for mark in grammar.marks if mark[0] in "<`" and TOOL not in mark}
    if grammar.thought:
        own -= {grammar.thought.open, grammar.thought.close}
    return grammar.start == "content" and bool(own) and all(mark in source for mark in own)
