"""The answers of a conversation, found through any chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from landrace.errors import DataError, LandraceError
from landrace.training.answers import Answer, continuation, refuse_stops, stop_token
from landrace.training.data import ChatRow

if TYPE_CHECKING:
    from landrace.text import Tokenizer

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
THOUGHT, END_OF_THOUGHT = "<think>", "</think>"


class Conversation:
    """One row seen through one tokenizer and its template."""

    def __init__(self, row: ChatRow, tokenizer: Tokenizer) -> None:
        if tokenizer.chat_template is None:
            raise DataError(
                f"{row.where}: the row is a chat, but the model has no chat template.",
                hint="Use rows with 'prompt' and 'completion'.",
            )
        self._row = row
        self._tokenizer = tokenizer
        self._template = tokenizer.chat_template

    def answers(self) -> list[Answer]:
        """One for each assistant turn that is learned, each behind the prompt that the engine would see there."""
        answers = [k for k, message in enumerate(self._row.messages) if message["role"] == "assistant"]
        return [self._answer(k) for k in answers if k not in self._row.context_only]

    def _answer(self, k: int) -> Answer:
        row, tokenizer = self._row, self._tokenizer
        message = row.messages[k]
        prompt = self._render(row.messages[:k], generation=True)
        full = self._render(row.messages[: k + 1], generation=False)
        joined = not full.startswith(prompt)
        if joined:
            history = self._render(row.messages[:k], generation=False)
            text = answer_text(message, prompt, history, full, row.where)
        else:
            text = full[len(prompt) :]
        _check_kept(message, text, row.where)
        written = json.dumps(message, ensure_ascii=False)
        refuse_stops(tokenizer.encode(written, add_bos=False), tokenizer, row.where)
        prompt_ids = tokenizer.encode(prompt, add_bos=False)
        ids = continuation(tokenizer, prompt, prompt_ids, text, row.where, add_bos=False)
        stop = next((i for i, token in enumerate(ids) if token in tokenizer.eos_ids), None)
        if stop is None:
            ids.append(self._next_token(k, full))
        else:
            ids = ids[: stop + 1]
        return Answer((*prompt_ids, *ids), len(prompt_ids), joined=joined, stop_added=stop is None)

    def _render(self, messages: Sequence[Mapping[str, Any]], *, generation: bool) -> str:
        return self._template.render(messages, tools=self._row.tools, add_generation_prompt=generation)

    def _next_token(self, k: int, full: str) -> int:
        """What stops a turn that the template leaves open: the marker of the next turn where that is a stop token
        (GLM stops at `<|user|>`), else the tokenizer's own."""
        tokenizer, messages = self._tokenizer, self._row.messages
        role = "tool" if messages[k].get("tool_calls") else "user"
        try:
            longer = self._render([*messages[: k + 1], {"role": role, "content": "?"}], generation=False)
        except LandraceError:
            return stop_token(tokenizer)
        first = tokenizer.encode(longer[len(full) :], add_bos=False)[:1] if longer.startswith(full) else []
        return first[0] if first and first[0] in tokenizer.eos_ids else stop_token(tokenizer)


def answer_text(message: Mapping[str, Any], prompt: str, history: str, full: str, where: str) -> str:
    """What follows `prompt` when the template renders the answered conversation as something else.

    Reasoning templates open (or open and close) a thought in the generation prompt but leave thoughts out of
    conversations they are given. `history` and `full` are the conversation before and after the answer, without a
    generation prompt. The engine starts behind `prompt`, so the answer is put there: behind a closed thought as it is,
    behind an open one after the given reasoning, if any, and the end of the thought. Any other difference is a
    DataError, because then nobody can say what the model should learn.
    """
    thought, content = split_thought(message)
    opening = prompt[_shared_length(prompt, history) :]
    start = full.rfind(content)
    before = _shared_length(full, history)
    if not content or start < before or (END_OF_THOUGHT not in opening and THOUGHT not in opening):
        raise DataError(
            f"{where}: the chat template's generation prompt is not what it renders before the assistant's answer.",
            hint="Train with 'prompt' and 'completion' rows instead.",
        )
    rest = full[start:]
    if opening.rfind(END_OF_THOUGHT) > opening.rfind(THOUGHT):
        return rest
    lead = full[before:start]
    closing = lead[lead.rfind(END_OF_THOUGHT) :] if END_OF_THOUGHT in lead else END_OF_THOUGHT + "\n\n"
    return (thought + "\n" if thought else "") + closing + rest


def _shared_length(a: str, b: str) -> int:
    """Length of the longest common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def split_thought(message: Mapping[str, Any]) -> tuple[str, str]:
    """The reasoning and the content of an assistant message, both stripped."""
    content = str(message.get("content") or "")
    thought = next((str(message[name]) for name in REASONING_FIELDS if message.get(name)), "")
    if END_OF_THOUGHT in content:
        inside, _, content = content.rpartition(END_OF_THOUGHT)
        thought = thought or inside.strip().removeprefix(THOUGHT)
    return thought.strip(), content.strip()


def _check_kept(message: Mapping[str, Any], text: str, where: str) -> None:
    thought, content = split_thought(message)
    if content not in text:
        raise DataError(f"{where}: the chat template changes the assistant's content, so the answer would be another.")
    if thought not in text:
        raise DataError(
            f"{where}: the chat template leaves out the assistant's reasoning.",
            hint="Remove the reasoning from the row, or use a model whose template keeps it.",
        )
