"""A conversation to token ids, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from landrace.text.disguise import Disguise
from landrace.text.messages import joined_parts
from landrace.text.tokenizer import Tokenizer, check_tokens


@dataclass(frozen=True)
class ChatPrompt:
    """What a template wrote: its text, the texts of callers in place, and its token ids."""

    text: str
    token_ids: list[int]


def chat_prompt(
    tokenizer: Tokenizer,
    messages: Sequence[Any],
    *,
    tools: Sequence[Any] | None = None,
    add_generation_prompt: bool = True,
    limit: int | None = None,
    **variables: Any,
) -> ChatPrompt:
    """A conversation as the model's own chat template writes it.

    The template writes every control token itself, BOS included, so none is added: the ids equal those of
    `transformers`' apply_chat_template. Otherwise than there, a control token spelled out in a message, a tool or a
    variable is ordinary text. Raises RequestError for bad messages, for what the template leaves out, and for a model
    without a template; PromptTooLongError for more than `limit` tokens.
    """
    disguise = Disguise(tokenizer)
    fitted = disguise.template.fit(messages, tools=tools, add_generation_prompt=add_generation_prompt, **variables)
    if limit is not None:
        check_tokens(len(fitted.messages), limit)  # a message has a token at least: the mark of its turn
        tokenizer.check_length(_written_anyhow(fitted.messages), limit)
    text = disguise.write(fitted)
    return ChatPrompt(disguise.reveal(text), disguise.encode(text, limit=limit))


def _written_anyhow(messages: Sequence[dict[str, Any]]) -> str:
    """The texts that stand in the prompt whatever the template does to them: it may leave out thoughts of answers, and
    white space at either end, but no question. What cannot fit by them is not worth the writing."""
    contents = (joined_parts(message["content"] or "") for message in messages if message["role"] != "assistant")
    return "".join([content.strip() for content in contents])


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Any],
    *,
    tools: Sequence[Any] | None = None,
    add_generation_prompt: bool = True,
    limit: int | None = None,
    **variables: Any,
) -> list[int]:
    """The token ids of `chat_prompt`."""
    return chat_prompt(
        tokenizer, messages, tools=tools, add_generation_prompt=add_generation_prompt, limit=limit, **variables
    ).token_ids
