"""`Cache`: the groups of a model together. Those who plan steps know nothing else of caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from landrace.engine.cache.group import Group
from landrace.engine.facts import CacheFacts

Tables = list[Any]
"""What a request holds: in every group that group's table."""


class Cache:
    """A request holds something in every group or in none, and a length is usable if every group can go on from it."""

    def __init__(self, groups: Sequence[Group[Any]]) -> None:
        self.groups = tuple(groups)

    def usable(self, hashes: Sequence[bytes], limit: int) -> int:
        """See `Group.usable`. Every group may lower the length, until none does."""
        while True:
            length = limit
            for group in self.groups:
                length = group.usable(hashes, length)
            if length in (0, limit):
                return length
            limit = length

    def admit(self, hashes: Sequence[bytes], length: int, held: int, headroom: int) -> Tables | None:
        """What a newcomer of `held` tokens that goes on from a usable length holds; None, and nothing changes, where
        there is no room for it and `headroom`."""
        if not all(group.fits(hashes, length, held, headroom) for group in self.groups):
            return None
        tables = [group.new() for group in self.groups]
        # What is shared is held everywhere before anything is taken: taking may drop what is published.
        for group, table in zip(self.groups, tables, strict=True):
            group.attach(table, hashes, length)
        for group, table in zip(self.groups, tables, strict=True):
            group.reserve(table, held)
        return tables

    def cut(self, cached: int, end: int) -> int:
        """See `Group.cut`: the earliest of all groups."""
        for group in self.groups:
            end = group.cut(cached, end)
        return end

    def grow(self, tables: Tables, end: int) -> bool:
        """Takes room for the tokens before `end` in every group, or in none."""
        own = list(zip(self.groups, tables, strict=True))
        if not all(group.grows(table, end) for group, table in own):
            return False
        for group, table in own:
            group.extend(table, end)
        return True

    def committed(self, tables: Tables, hashes: Sequence[bytes], before: int, cached: int, sure: int) -> None:
        """See `Group.committed`."""
        for group, table in zip(self.groups, tables, strict=True):
            group.committed(table, hashes, before, cached, sure)

    def release(self, tables: Tables) -> None:
        """Gives everything back."""
        for group, table in zip(self.groups, tables, strict=True):
            group.release(table)

    def withdraw(self, hashes: Sequence[bytes]) -> None:
        """See `Group.withdraw`."""
        for group in self.groups:
            group.withdraw(hashes)

    def take_copies(self) -> list[tuple[int, int, int]]:
        """See `Group.take_copies`: the number of the group, from and to."""
        return [(n, *places) for n, group in enumerate(self.groups) for places in group.take_copies()]

    def together(self, lengths: Sequence[int]) -> bool:
        """See `Group.together`."""
        return all(group.together(lengths) for group in self.groups)

    def facts(self) -> list[CacheFacts]:
        """How each group is filled."""
        return [group.facts() for group in self.groups]
