"""`most_tokens`: how long an answer may get."""

from __future__ import annotations

from landrace.errors import PromptTooLongError
from landrace.server.http.errors import CONTEXT_LENGTH_EXCEEDED, FieldError


def most_tokens(
    asked: int | None, n_prompt: int, max_length: int, *, shifts: bool, field: str, default: int | None = None
) -> int:
    """The most tokens to generate: as `asked` for in `field`, else `default`, else what a sequence of `max_length` has
    room for, or half of one that `shifts`. Raises FieldError, and PromptTooLongError (field "prompt"), for what cannot
    fit."""
    room = max(max_length - n_prompt, max_length // 2) if shifts else max_length - n_prompt
    if room < (0 if asked == 0 else 1):
        raise PromptTooLongError(
            f"This model's maximum context length is {max_length} tokens, and the prompt has {n_prompt}.",
            field="prompt",
            hint="Shorten it.",
        )
    if asked is None:
        return room if default is None else min(default, room)
    if asked > room and not shifts:
        raise FieldError(
            f"This model's maximum context length is {max_length} tokens: the prompt has {n_prompt}, so that"
            f" {field} can be {room} at most, and it is {asked}.",
            field=field,
            code=CONTEXT_LENGTH_EXCEEDED,
        )
    return asked
