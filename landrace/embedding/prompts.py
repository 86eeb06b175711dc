"""What is written before a text: a prompt that the checkpoint names, one in words, or an instruction.

A text from outside stays text: nothing in it becomes a control token. A checkpoint's own prompt may have some.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from landrace.errors import RequestError
from landrace.text import Tokenizer

INSTRUCTION = re.compile(r"Instruct: (?P<task>.*)\nQuery:(?P<space> ?)", re.DOTALL)
"""How Qwen3-Embedding, and E5-Mistral before it with a space at the end, ask for an instruction."""
_NAME = re.compile(r"[\w-]+")
NO_PROMPT = ""


@dataclass(frozen=True)
class Prompt:
    """Text that is put before each text, and what it is."""

    text: str
    said: str
    """For people."""


class Prompts:
    """Those of a checkpoint. `takes_instructions`: it does so even where none of its prompts shows how."""

    def __init__(self, by_name: Mapping[str, str], default: str | None, *, takes_instructions: bool) -> None:
        self.by_name = dict(by_name)
        self._default = default
        shown = [match for text in by_name.values() if (match := INSTRUCTION.fullmatch(text))]
        self._space = shown[0]["space"] if shown else NO_PROMPT
        self._takes_instructions = takes_instructions or bool(shown)

    def choose(self, prompt: str | None, instruction: str | None) -> Prompt:
        """`prompt`: the name of one, or any text that is more than a word; None: the checkpoint's default. RequestError
        for a name that is not known, and for an instruction to a model that knows none."""
        if prompt is not None and instruction is not None:
            raise RequestError("A prompt and an instruction exclude each other.", field="prompt", hint="Leave one out.")
        if instruction is not None:
            return self._instructed(instruction)
        if prompt is None:
            if self._default is None:
                return Prompt(NO_PROMPT, "no prompt")
            return Prompt(self.by_name[self._default], f"the checkpoint's default prompt '{self._default}'")
        if prompt in self.by_name:
            return Prompt(self.by_name[prompt], f"the checkpoint's prompt '{prompt}'")
        if not _NAME.fullmatch(prompt):
            return Prompt(prompt, "a prompt of your own" if prompt else "no prompt")
        known = ", ".join(self.by_name)
        hint = "Write --instruction TEXT to say what is searched for." if self._takes_instructions else None
        raise RequestError(
            f"The model has no prompt called {prompt!r}; {f'its prompts are {known}' if known else 'it names none'}.",
            field="prompt",
            hint=hint,
        )

    def _instructed(self, task: str) -> Prompt:
        if not self._takes_instructions:
            raise RequestError(
                "This model's prompts take no instruction.", field="instruction", hint="Leave --instruction out."
            )
        if not task.strip():
            raise RequestError("The instruction is empty.", field="instruction", hint="Leave --instruction out.")
        return Prompt(f"Instruct: {task}\nQuery:{self._space}", "an instruction")


def split_prompt(prompt: str, tokenizer: Tokenizer) -> tuple[list[int], str]:
    """The ids of a prompt up to its last control token, and the text behind it, which is encoded together with what
    follows: words may join there."""
    texts = [text for index in tokenizer.special_ids if (text := tokenizer.token_text(index))]
    end = max((prompt.rfind(text) + len(text) for text in texts if text in prompt), default=0)
    return tokenizer.encode(prompt[:end], add_bos=False) if end else [], prompt[end:]
