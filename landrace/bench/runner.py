"""`Runner`: what the bench needs of an engine, ours or a peer's, so that all of them do the same work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Runner(Protocol):
    """One model, open in one engine. Every choice of a token is greedy. No method takes or keeps the time."""

    name: str
    max_streams: int
    """Most sequences one decode step can hold."""

    def first_token(self, prompt: Sequence[int]) -> int:
        """Computes a prompt of which nothing is cached and returns the token after it."""

    def first_token_again(self, prompt: Sequence[int]) -> int:
        """The same for the prompt of the last `first_token`, from its cache."""

    def begin_decode(self, prompts: Sequence[Sequence[int]], room: int) -> None:
        """Computes prompts of equal length, one a stream, and keeps them, with room for `room` more tokens each.

        `rewind` comes before the first `decode`.
        """

    def rewind(self) -> None:
        """Back to the end of the prompts, with the first token of every stream chosen."""

    def decode(self, steps: int) -> list[tuple[int, ...]]:
        """Decodes `steps` tokens of every stream, one step for all streams at a time; the tokens of each step."""

    def end_decode(self) -> None:
        """Gives the memory of the streams back."""
