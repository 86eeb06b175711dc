"""A group of another kind than pages, for tests: one state a request, and copies of it at every so many tokens.

It shows that the scheduler knows nothing of pages, and how a cache cuts a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from landrace.engine.cache.pool import BlockPool
from landrace.engine.options import EngineOptions


@dataclass(eq=False)
class StateTable:
    live: int | None = None
    source: int | None = None
    """The snapshot that the live state starts from, held until it is copied."""


class SnapshotGroup:
    """`every`: tokens from one snapshot to the next, a multiple of the block size."""

    def __init__(self, n_states: int, block_size: int, every: int) -> None:
        self.pool = BlockPool(n_states)
        self.every = every
        self.copies: list[tuple[int, int]] = []
        """(from, to), to be made in order before the next step."""
        self._size = block_size

    def new(self) -> StateTable:
        return StateTable()

    def usable(self, hashes: Sequence[bytes], limit: int) -> int:
        grid = range(limit // self.every * self.every, 0, -self.every)
        return next((length for length in grid if self._name(hashes, length) in self.pool.block_of), 0)

    def fits(self, hashes: Sequence[bytes], length: int, held: int, headroom: int) -> bool:
        shared = [self.pool.block_of[self._name(hashes, length)]] if length else []
        return self.pool.fits(shared, 1)

    def attach(self, table: StateTable, hashes: Sequence[bytes], length: int) -> None:
        if length:
            table.source = self.pool.block_of[self._name(hashes, length)]
            self.pool.share([table.source])

    def reserve(self, table: StateTable, held: int) -> None:
        (table.live,) = self.pool.take(1)
        if table.source is not None:
            self.copies.append((table.source, table.live))
            self.pool.release([table.source])
            table.source = None

    def grows(self, table: StateTable, end: int) -> bool:
        return True

    def extend(self, table: StateTable, end: int) -> None:
        pass

    def cut(self, cached: int, end: int) -> int:
        return min(end, (cached // self.every + 1) * self.every)

    def committed(self, table: StateTable, hashes: Sequence[bytes], before: int, cached: int) -> None:
        if not hashes or cached % self.every or hashes[-1] in self.pool.block_of or not self.pool.free:
            return
        assert table.live is not None
        (copy,) = self.pool.take(1)
        self.copies.append((table.live, copy))
        self.pool.publish(copy, hashes[-1])
        self.pool.release([copy])

    def release(self, table: StateTable) -> None:
        assert table.live is not None
        self.pool.release([table.live])

    def withdraw(self, hashes: Sequence[bytes]) -> None:
        for digest in hashes:
            self.pool.withdraw(digest)

    def together(self, lengths: Sequence[int]) -> bool:
        return len(lengths) < self.pool.n_blocks

    def _name(self, hashes: Sequence[bytes], length: int) -> bytes:
        return hashes[length // self._size - 1]


@dataclass(frozen=True)
class Snapshots:
    """Stands beside masks: every so many blocks, with so many states beyond one for each request."""

    blocks: int
    spare: int


class States:
    """The group and the simulated memory behind it: see `simulation.Pages`."""

    def __init__(self, kind: Snapshots, options: EngineOptions) -> None:
        size = options.block_size
        self.group = SnapshotGroup(options.most_running + kind.spare, size, kind.blocks * size)
        self.states: dict[int, object] = {}

    def write(self, progress: Any, table: StateTable, marks: Sequence[object]) -> None:
        self._copy()
        assert table.live is not None
        assert self.group.pool.references[table.live] == 1 and table.live not in self.group.pool.hash_of
        if progress.cached:
            assert self.states[table.live] == marks[progress.cached - 1], "the state of another beginning"
        self.states[table.live] = marks[progress.cached + progress.scheduled - 1]

    def read(self, progress: Any, table: StateTable, marks: Sequence[object]) -> None:
        pass

    def check(self, running: Mapping[Any, StateTable], digests: Mapping[object, bytes]) -> None:
        self._copy()
        pool = self.group.pool
        live = [table.live for table in running.values()]
        assert sorted(block for block in range(pool.n_blocks) if pool.references[block]) == sorted(live)  # type: ignore[type-var]
        assert all(pool.references[block] <= 1 for block in range(pool.n_blocks))
        assert len(pool.free) + len(live) == pool.n_blocks
        for state, digest in pool.hash_of.items():
            assert digests[self.states[state]] == digest, "a snapshot holds something else"

    def _copy(self) -> None:
        for source, target in self.group.copies:
            if source in self.states:
                self.states[target] = self.states[source]
        self.group.copies.clear()
