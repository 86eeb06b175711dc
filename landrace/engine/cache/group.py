"""`Group`: what a kind of cache is, to those who plan steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from landrace.engine.facts import CacheFacts

Table = TypeVar("Table")
"""What one request holds in a group."""


class Group(Protocol[Table]):
    """The caches of layers with equal needs, over all requests.

    `hashes` are those of a request's leading whole blocks, and lengths are numbers of its leading tokens.
    """

    def new(self) -> Table:
        """Of a request that holds nothing."""
        ...

    def usable(self, hashes: Sequence[bytes], limit: int) -> int:
        """The greatest length up to `limit` from which a request can go on with what is published."""
        ...

    def fits(self, hashes: Sequence[bytes], length: int, held: int, headroom: int) -> bool:
        """Whether a newcomer of `held` tokens that goes on from a usable length finds room, and `headroom` other
        requests some more after that."""
        ...

    def attach(self, table: Table, hashes: Sequence[bytes], length: int) -> None:
        """Holds what is published of the first `length` tokens."""
        ...

    def reserve(self, table: Table, held: int) -> None:
        """Takes what a newcomer of `held` tokens is to have from its first step on."""
        ...

    def grows(self, table: Table, end: int) -> bool:
        """Whether there is room for what the tokens before `end` still lack."""
        ...

    def extend(self, table: Table, end: int) -> None:
        """Takes that room."""
        ...

    def cut(self, cached: int, end: int) -> int:
        """Where a step that goes on from `cached` must stop; `end` where it need not stop earlier."""
        ...

    def committed(self, table: Table, hashes: Sequence[bytes], before: int, cached: int, sure: int) -> None:
        """After the tokens from `before` to `cached` were computed, those behind `sure` as guesses: publishes the whole
        blocks among them, which `hashes` ends with, and gives back what no later token sees. No hashes: publishes
        nothing."""
        ...

    def release(self, table: Table) -> None:
        """Gives everything back."""
        ...

    def withdraw(self, hashes: Sequence[bytes]) -> None:
        """Publishes these no more."""
        ...

    def take_copies(self) -> list[tuple[int, int]]:
        """What is to be copied before the next step, in order: places of the pool, from and to."""
        ...

    def together(self, lengths: Sequence[int]) -> bool:
        """Whether requests of so many tokens have room at the same time, sharing nothing."""
        ...

    def facts(self) -> CacheFacts:
        """How it is filled."""
        ...
