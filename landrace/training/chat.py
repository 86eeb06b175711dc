"""The answers of a conversation, found through any chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from landrace.errors import DataError, LandraceError
from landrace.text.disguise import Disguise
from landrace.text.messages import REASONING_FIELDS
from landrace.training.answers import Answer, continuation, stop_token
from landrace.training.data import ChatRow

if TYPE_CHECKING:
    from landrace.text import Tokenizer

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
        self._disguise = Disguise(tokenizer)

    def answers(self) -> list[Answer]:
        """One for each assistant turn that is learned, each behind the prompt that the engine would see there."""
        answers = [k for k, message in enumerate(self._row.messages) if message["role"] == "assistant"]
        return [self._answer(k) for k in answers if k not in self._row.context_only]

    def _answer(self, k: int) -> Answer:
        row, tokenizer, encode = self._row, self._tokenizer, self._disguise.encode
        prompt, _ = self._render(row.messages[:k], generation=True)
        full, message = self._render(row.messages[: k + 1], generation=False)
        joined = not full.startswith(prompt)
        if joined:
            history, _ = self._render(row.messages[:k], generation=False)
            thought, content = (self._disguise.hide(part) for part in split_thought(message))
            text = answer_text(thought, content, prompt, history, full, row.where)
        else:
            text = full[len(prompt) :]
        trimmed = _check_kept(message, self._disguise.reveal(text), row.where)
        prompt_ids = encode(prompt)
        ids = continuation(
            tokenizer,
            prompt_ids,
            encode(prompt + text),
            text,
            row.where,
            encode=encode,
            reveal=self._disguise.reveal,
        )
        stop = next((i for i, token in enumerate(ids) if token in tokenizer.eos_ids), None)
        if stop is None:
            ids.append(self._next_token(k, full))
        else:
            ids = ids[: stop + 1]
        return Answer((*prompt_ids, *ids), len(prompt_ids), joined=joined, stop_added=stop is None, trimmed=trimmed)

    def _render(self, messages: Sequence[Mapping[str, Any]], *, generation: bool) -> tuple[str, Mapping[str, Any]]:
        """The template's text, those of control tokens hidden in it, and the last message in the form it was given."""
        template = self._disguise.template
        fitted = template.fit(messages, tools=self._row.tools, add_generation_prompt=generation)
        return self._disguise.write(fitted), fitted.messages[-1]

    def _next_token(self, k: int, full: str) -> int:
        """What stops a turn that the template leaves open: the marker of the next turn where that is a stop token
        (GLM stops at `<|user|>`), else the tokenizer's own."""
        tokenizer, messages = self._tokenizer, self._row.messages
        role = "tool" if messages[k].get("tool_calls") else "user"
        try:
            longer, _ = self._render([*messages[: k + 1], {"role": role, "content": "?"}], generation=False)
        except LandraceError:
            return stop_token(tokenizer)
        first = self._disguise.encode(longer[len(full) :])[:1] if longer.startswith(full) else []
        return first[0] if first and first[0] in tokenizer.eos_ids else stop_token(tokenizer)


def answer_text(thought: str, content: str, prompt: str, history: str, full: str, where: str) -> str:
    """What follows `prompt` when the template renders the answered conversation as something else.

    Reasoning templates open (or open and close) a thought in the generation prompt but leave thoughts out of
    conversations they are given. `history` and `full` are the conversation before and after the answer, without a
    generation prompt. The engine starts behind `prompt`, so the answer is put there: behind a closed thought as it is,
    behind an open one after the given reasoning, if any, and the end of the thought. Any other difference is a
    DataError, because then nobody can say what the model should learn.
    """
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
    content = _content(message)
    thought = next((str(message[name]) for name in REASONING_FIELDS if message.get(name)), "")
    if END_OF_THOUGHT in content:
        inside, _, content = content.rpartition(END_OF_THOUGHT)
        thought = thought or inside.strip().removeprefix(THOUGHT)
    return thought.strip(), content.strip()


def _content(message: Mapping[str, Any]) -> str:
    """A fitted message's content; templates that take parts write one behind the other."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _check_kept(message: Mapping[str, Any], text: str, where: str) -> bool:
    """Whether white space around the answer is lost; DataError when anything else is."""
    thought, content = split_thought(message)
    if not (thought or content or message.get("tool_calls")):
        raise DataError(f"{where}: an assistant's turn is empty, so there is no answer to learn.")
    if content not in text:
        raise DataError(f"{where}: the chat template changes the assistant's content, so the answer would be another.")
    if thought not in text:
        raise DataError(
            f"{where}: the chat template leaves out the assistant's reasoning.",
            hint="Remove the reasoning from the row, or use a model whose template keeps it.",
        )
    whole = _content(message)
    return END_OF_THOUGHT not in whole and whole not in text
