"""Texts to token ids, none silently cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from landrace.errors import PromptTooLongError, RequestError
from landrace.text import Tokenizer


@dataclass(frozen=True)
class Encoded:
    """A text as the model reads it."""

    ids: tuple[int, ...]
    cut: int
    """Tokens of the text that were left out because it is too long."""
    types: tuple[int, ...] = ()
    """Of a pair for an encoder: which of the two each token is of."""


def check_texts(texts: Sequence[str], what: str) -> None:
    """RequestError for the first that is empty or no text. `what` is what one of them is called."""
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise RequestError(f"{what} {number} is {type(text).__name__}, not text.", field="texts")
        if not text.strip():
            raise RequestError(f"{what} {number} is empty.", field="texts", hint="Leave it out.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"{what} {number} is not valid text: character {error.start + 1} is half of a surrogate pair.",
                field="texts",
            ) from None


def encode_between(
    tokenizer: Tokenizer,
    before: Sequence[int],
    text: str,
    after: Sequence[int],
    *,
    limit: int,
    truncate: bool,
    name: str,
) -> Encoded:
    """`before`, the text and `after`, in at most `limit` tokens: the end of a longer text is left out where `truncate`
    says so, else PromptTooLongError. `name`: whose length the error tells."""
    room = limit - len(before) - len(after)
    ids = tokenizer.encode(text, add_bos=False, parse_special=False)
    if len(ids) > room and not truncate:
        n_tokens = len(before) + len(ids) + len(after)
        raise PromptTooLongError(
            f"{name} has {n_tokens} tokens; the longest text that the model takes has {limit}.",
            field="texts",
            hint="Shorten it, or cut it at the limit with --truncate (truncate=True).",
        )
    kept = ids[: max(room, 0)]
    return Encoded((*before, *kept, *after), len(ids) - len(kept))
