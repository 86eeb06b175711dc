"""`AnswerForm`: how the answer to one prompt is to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from landrace.text.answers.grammar import REASONING, Grammar
from landrace.text.answers.machine import AnswerParser

if TYPE_CHECKING:
    from landrace.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class AnswerForm:
    """A grammar, the state in which the answer begins, and the tools that may be called. Travels between processes."""

    grammar: Grammar
    begin: str
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def begins_in_thought(self) -> bool:
        """Whether the prompt has opened a thought."""
        return self.begin == REASONING

    def guided(self) -> AnswerForm:
        """The form of an answer that a guide shapes. With tools, the guide shapes calls, which are read as ever, and
        the frames that a family has: it begins right behind a thought."""
        thought = self.grammar.thought
        if self.tools and self.grammar.framed and thought is not None:
            return replace(self, grammar=replace(self.grammar, thought=replace(thought, end=thought.close)))
        if self.tools:
            return self
        grammar = self.grammar.guided()
        return replace(self, grammar=grammar, begin=REASONING if self.begins_in_thought else grammar.start)

    def parser(self) -> AnswerParser:
        return AnswerParser(self.grammar, self.begin, self.tools)


def answer_form(tokenizer: Tokenizer, prompt: str, tools: Sequence[Mapping[str, Any]] = ()) -> AnswerForm:
    """How to read the answer to `prompt`, as the tokenizer's template wrote it. Without `tools`, calls are text."""
    grammar = tokenizer.answer_grammar
    return AnswerForm(grammar, grammar.begin(prompt), tuple(tools))
