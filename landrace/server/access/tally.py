"""`Tally`: what one call asks for and comes to. Routes write it; limits and logs read it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from starlette.requests import HTTPConnection

from landrace.server.access.limits import Allowance

if TYPE_CHECKING:
    from landrace.server.generation import Choice
    from landrace.text import Tokenizer

_PLACE = "landrace.tally"
_EXPECTED_ANSWER = 512
"""Tokens that are reserved for an answer that may be longer; what it comes to is settled at its end."""


class Counts(NamedTuple):
    """What a call has used so far."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    machine_seconds: float = 0.0
    cached_tokens: int = 0
    """Of the prompt's."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Tally:
    """Of one call, from its arrival to its end."""

    def __init__(self, allowance: Allowance | None = None) -> None:
        """`allowance`: the key's; None where nothing is limited."""
        self.model: str | None = None
        self.answer_id: str | None = None
        self.kind: str | None = None
        """What was asked for, as the ledger's usage has it."""
        self.began: float | None = None
        """When it was given to the engine, in seconds since the epoch; choices count their times from then."""
        self.choices: Sequence[Choice] = ()
        self.tokenizer: Tokenizer | None = None
        """Of the model."""
        self._allowance = allowance
        self._reserved = 0
        self._counted: Callable[[], Counts] = Counts

    @property
    def counts(self) -> Counts:
        return self._counted()

    def begin(self, prompt_tokens: int, most: int, counted: Callable[[], Counts]) -> None:
        """The call is about to be computed: `most` are the tokens that its answers may have, `counted` tells from now
        on what it has used. Raises ApiError where the key has to wait for its tokens."""
        if self._allowance is not None:
            self._reserved += self._allowance.reserve(prompt_tokens, min(most, _EXPECTED_ANSWER))
        self._counted = counted

    def follow(self, answer_id: str, kind: str, choices: Sequence[Choice], tokenizer: Tokenizer) -> None:
        """For logs: what is computed from now on."""
        self.answer_id, self.kind, self.choices, self.tokenizer = answer_id, kind, choices, tokenizer
        self.began = time.time()

    def settle(self) -> None:
        """The call has ended."""
        if self._allowance is not None:
            self._allowance.settle(self._reserved, self.counts.tokens)


def tally_of(http: HTTPConnection) -> Tally:
    """The call's own, which begins with the first who asks for it."""
    found = http.scope.setdefault(_PLACE, Tally())
    assert isinstance(found, Tally)
    return found


def note_tally(http: HTTPConnection, tally: Tally) -> None:
    """For the access middleware, which knows the key's allowance."""
    http.scope[_PLACE] = tally
