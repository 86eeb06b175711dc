"""Token ids of one answer behind the prompt it belongs to, as inference will see them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from landrace.errors import DataError
from landrace.text.end_tokens import turn_end_id
from landrace.training.data import CompletionRow

if TYPE_CHECKING:
    from landrace.text import Tokenizer


@dataclass(frozen=True)
class Answer:
    """One answer to learn: `token_ids[prompt_length:]` are trained, and the last of them stops generation."""

    token_ids: tuple[int, ...]
    prompt_length: int
    joined: bool = False
    """The chat template renders the answer differently behind its own generation prompt; see `chat.answer_text`."""
    stop_added: bool = False
    """The chat template ends the turn without a stop token, so one was added."""
    trimmed: bool = False
    """The chat template takes white space away at the answer's beginning or end."""


def completion_answer(row: CompletionRow, tokenizer: Tokenizer) -> Answer:
    """The prompt exactly as the engine encodes it, the completion, and a stop token."""
    prompt_ids = tokenizer.encode(row.prompt)
    together = tokenizer.encode(row.prompt + row.completion)
    encode = partial(tokenizer.encode, add_bos=False)
    ids = continuation(tokenizer, prompt_ids, together, row.completion, row.where, encode=encode)
    if ids[-1] not in tokenizer.eos_ids:
        ids.append(stop_token(tokenizer))
    _refuse_stops(ids[:-1], tokenizer, row.where)
    return Answer((*prompt_ids, *ids), len(prompt_ids))


def continuation(
    tokenizer: Tokenizer,
    prompt_ids: Sequence[int],
    together: Sequence[int],
    text: str,
    where: str,
    *,
    encode: Callable[[str], list[int]],
    reveal: Callable[[str], str] = str,
) -> list[int]:
    """Ids of `text` behind `prompt_ids`; `together` are the ids of the prompt and `text` as one.

    Encoding both at once is right unless a token spans the border: inference has the prompt's own ids there, so then
    `text` is encoded by itself. Tokenizers that put a space before any text are given a line break to put it before.
    `encode` gives ids without a BOS, `reveal` the text that those ids stand for.
    """
    if not prompt_ids:
        raise DataError(f"{where}: the prompt has no tokens.")
    if list(together[: len(prompt_ids)]) == list(prompt_ids) and len(together) > len(prompt_ids):
        return list(together[len(prompt_ids) :])
    alone, lead, behind_break = encode(text), encode("\n"), encode("\n" + text)
    candidates = [alone] + ([behind_break[len(lead) :]] if behind_break[: len(lead)] == lead else [])
    shown = reveal(text)
    wanted = {shown.encode(), unicodedata.normalize("NFC", shown).encode()}
    for ids in candidates:
        if ids and b"".join(tokenizer.token_bytes(token) for token in ids) in wanted:
            return ids
    raise DataError(
        f"{where}: the tokenizer cannot encode the answer separately from the prompt.",
        hint="Let the prompt end and the answer begin at a word, with the space on one side only.",
    )


def stop_token(tokenizer: Tokenizer) -> int:
    """The token that ends an answer where the row leaves it open: the one the chat template ends turns with, if any."""
    if not tokenizer.eos_ids:
        raise DataError("The tokenizer has no end-of-sequence token, so an answer could not be taught to stop.")
    turn_end = None
    if tokenizer.chat_template is not None:
        control = {tokenizer.token_text(token) or "": token for token in tokenizer.eos_ids}
        turn_end = turn_end_id(tokenizer.chat_template, control)
    return min(tokenizer.eos_ids) if turn_end is None else turn_end


def _refuse_stops(ids: Sequence[int], tokenizer: Tokenizer, where: str) -> None:
    """Raises DataError when generation would stop inside the answer whose own ids these are."""
    if any(token in tokenizer.eos_ids for token in ids):
        raise DataError(
            f"{where}: the answer contains the text of a stop token, so generation would end inside it.",
            hint="Remove the stop token's text from the answer; the end of a turn is added for you.",
        )
