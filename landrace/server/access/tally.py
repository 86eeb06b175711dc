"""`Tally`: what one call asks for and comes to. Routes write it; limits and logs read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from starlette.requests import HTTPConnection

from landrace.server.access.limits import Allowance

_PLACE = "landrace.tally"
_EXPECTED_ANSWER = 512
"""Tokens that are reserved for an answer that may be longer; what it comes to is settled at its end."""


class Counts(NamedTuple):
    """What a call has used so far."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    machine_seconds: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Tally:
    """Of one call, from its arrival to its end."""

    def __init__(self, allowance: Allowance | None = None) -> None:
        """`allowance`: the key's; None where nothing is limited."""
        self.model: str | None = None
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
