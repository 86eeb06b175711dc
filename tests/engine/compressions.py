"""Groups with one entry for several positions in the simulation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from landrace.engine.options import EngineOptions
from landrace.kernels.mask import FULL
from landrace.models.cache_spec import Paged


@dataclass(frozen=True)
class Every:
    """Stands beside masks: an entry for so many positions."""

    positions: int


class Entries:
    """The group and the simulated memory behind it: see `simulation.Pages`. An entry holds the mark of the last of its
    positions."""

    def __init__(self, kind: Every, options: EngineOptions, module: ModuleType) -> None:
        self.size, self.every = options.block_size, kind.positions
        spec = Paged(FULL, kind.positions)
        self.group = module.PagedGroup(spec, module.blocks_of(spec, options), options.block_size)
        self.places: dict[tuple[int, int], object] = {}
        self.named: dict[bytes, Sequence[object]] = {}
        """What the last block of so many tokens begins with, by their name."""

    def copy(self, source: int, target: int) -> None:
        for offset in range(self.size):
            if (source, offset) in self.places:
                self.places[target, offset] = self.places[source, offset]

    def write(self, progress: Any, table: Any, marks: Sequence[object]) -> None:
        pool = self.group.pool
        for position in range(progress.cached, len(marks)):
            if (position + 1) % self.every:
                continue
            entry = position // self.every
            block = table.block_at(entry // self.size)
            assert pool.references[block] == 1, "a shared block was written"
            promised = max((len(self.named[digest]) for digest in pool.hashes_of.get(block, ())), default=0)
            assert entry % self.size >= promised, "a published entry was written"
            self.places[block, entry % self.size] = marks[position]

    def read(self, progress: Any, table: Any, marks: Sequence[object]) -> None:
        """All entries that are there hold what they should."""
        for entry, mark in enumerate(marks[self.every - 1 :: self.every]):
            place = (table.block_at(entry // self.size), entry % self.size)
            assert self.places[place] == mark, "an entry holds something else"

    def note(self, hashes: Sequence[bytes], marks: Sequence[object]) -> None:
        """What names stand for."""
        entries = marks[self.every - 1 :: self.every]
        for number, digest in enumerate(hashes):
            n_entries = (number + 1) * self.size // self.every
            self.named[digest] = entries[max(0, n_entries - 1) // self.size * self.size : n_entries]

    def to_publish(self, hashes: Sequence[bytes], before: int, end: int) -> Sequence[bytes]:
        """What the tokens from `before` to `end` make: the beginnings of blocks, but for those that earlier names
        stand for, and whole ones."""
        found = []
        for number in range(before // self.size, end // self.size):
            tokens = (number + 1) * self.size
            if tokens // self.every % self.size or tokens % (self.size * self.every) == 0:
                found.append(hashes[number])
        return found

    def check(self, running: Mapping[Any, Any], digests: Mapping[object, bytes]) -> None:
        """Every block is free or held, by exactly as many as it counts; what is published is what its name says."""
        pool = self.group.pool
        holders = Counter(block for table in running.values() for block in table.blocks)
        assert [holders[block] for block in range(pool.n_blocks)] == pool.references
        assert set(pool.free) == {block for block in range(pool.n_blocks) if holders[block] == 0}
        assert {digest: block for block, names in pool.hashes_of.items() for digest in names} == pool.block_of
        for digest, block in pool.block_of.items():
            for offset, mark in enumerate(self.named[digest]):
                assert self.places[block, offset] == mark, "a published block holds something else"
