"""`StateGroup`: one state a request, and snapshots of it at every so many tokens, from which others go on.

No state is ever copied. A step reads one and leaves another, or the same one in place. A state that has become a
snapshot is only read from then on: whoever is at it goes on in a fresh one, as those do who find it later. Guesses do
not go into a state before they are known to be right: a step keeps what they would change beside the one it leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from landrace.engine.cache.pool import BlockPool
from landrace.engine.facts import CacheFacts
from landrace.engine.options import EngineOptions


@dataclass(eq=False)
class StateTable:
    """The states one request holds."""

    read: int | None = None
    """The one after its first `length` tokens; what the others that are cached change is kept beside it. None: it has
    none."""
    length: int = 0
    write: int | None = None
    """The one that its next step leaves, once there is room for that step."""


class StateGroup:
    """A pool of states. `every`: tokens from one snapshot to the next, a multiple of the block size; None: there are no
    snapshots.

    Needs two states for a request alone: the snapshot that it goes on from, and its own.
    """

    def __init__(self, n_states: int, block_size: int, every: int | None) -> None:
        self.pool = BlockPool(n_states)
        self._size = block_size
        self._every = every

    def new(self) -> StateTable:
        return StateTable()

    def usable(self, hashes: Sequence[bytes], limit: int) -> int:
        if self._every is None:
            return 0
        grid = range(limit // self._every * self._every, 0, -self._every)
        return next((length for length in grid if self._name(hashes, length) in self.pool.block_of), 0)

    def fits(self, hashes: Sequence[bytes], length: int, held: int, headroom: int) -> bool:
        # Those who run go on in place where there is no other room.
        return self.pool.fits([self._snapshot(hashes, length)] if length else [], 1)

    def attach(self, table: StateTable, hashes: Sequence[bytes], length: int) -> None:
        if length:
            table.read, table.length = self._snapshot(hashes, length), length
            self.pool.share([table.read])

    def reserve(self, table: StateTable, held: int) -> None:
        (table.write,) = self.pool.take(1)

    def grows(self, table: StateTable, end: int) -> bool:
        return table.write is not None or self._is_its_own(table) or self.pool.fits((), 1)

    def extend(self, table: StateTable, end: int) -> None:
        if table.write is not None:
            return
        is_snapshot = table.read in self.pool.hashes_of
        if self._is_its_own(table) and not (is_snapshot and self.pool.fits((), 1)):
            assert table.read is not None
            self.pool.forget(table.read)
            table.write = table.read
        else:
            (table.write,) = self.pool.take(1)

    def cut(self, cached: int, end: int) -> int:
        return end if self._every is None else min(end, (cached // self._every + 1) * self._every)

    def committed(self, table: StateTable, hashes: Sequence[bytes], before: int, cached: int, sure: int) -> None:
        assert table.write is not None
        if table.read is not None and table.read != table.write:
            self.pool.release([table.read])
        table.read, table.write, table.length = table.write, None, sure
        if self._every is not None and hashes and cached % self._every == 0:
            self.pool.publish(table.read, hashes[-1])

    def release(self, table: StateTable) -> None:
        self.pool.release([state for state in {table.read, table.write} if state is not None])
        table.read = table.write = None
        table.length = 0

    def withdraw(self, hashes: Sequence[bytes]) -> None:
        for digest in hashes:
            self.pool.withdraw(digest)

    def take_copies(self) -> list[tuple[int, int]]:
        return []

    def together(self, lengths: Sequence[int]) -> bool:
        return len(lengths) <= self.pool.n_blocks

    def facts(self) -> CacheFacts:
        return CacheFacts("states", self.pool.n_blocks, self.pool.n_held, self.pool.n_reusable)

    def _is_its_own(self, table: StateTable) -> bool:
        """Whether nobody else reads the state that it goes on from."""
        return table.read is not None and self.pool.references[table.read] == 1

    def _snapshot(self, hashes: Sequence[bytes], length: int) -> int:
        return self.pool.block_of[self._name(hashes, length)]

    def _name(self, hashes: Sequence[bytes], length: int) -> bytes:
        return hashes[length // self._size - 1]


def states_of(options: EngineOptions) -> int:
    """How many states a group's pool has: two for each request that runs, its own and a snapshot."""
    return 2 * options.most_running


def snapshots_every(options: EngineOptions) -> int | None:
    """Tokens from one snapshot to the next, in whole blocks."""
    if not options.prefix_cache:
        return None
    return -(-options.snapshot_tokens // options.block_size) * options.block_size
