"""Groups of states in the simulation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from landrace.engine.options import EngineOptions


@dataclass(frozen=True)
class Snapshots:
    """Stands beside masks: every so many blocks, with so many states beyond one for each request,
    and two at least."""

    blocks: int
    spare: int


class States:
    """The group and the simulated memory behind it: see `simulation.Pages`."""

    def __init__(self, kind: Snapshots, options: EngineOptions, module: ModuleType) -> None:
        self.size, self.every = options.block_size, kind.blocks * options.block_size
        every = self.every if options.prefix_cache else None
        self.group = module.StateGroup(max(2, options.most_running + kind.spare), self.size, every)
        self.states: dict[int, object] = {}
        self.guesses: dict[int, Sequence[object]] = {}
        """What is kept beside each state."""

    def write(self, progress: Any, table: Any, marks: Sequence[object]) -> None:
        pool = self.group.pool
        assert pool.references[table.write] == 1, "a state that another holds is written"
        assert table.write not in pool.hashes_of, "a snapshot is written"
        if progress.cached:
            assert self.states[table.read] == marks[table.length - 1], "the state of another beginning"
            kept = progress.cached - table.length
            right = self.guesses[table.read][:kept] if kept else []
            assert list(right) == list(marks[table.length : progress.cached]), "other guesses were right"
        sure = progress.cached + progress.scheduled
        self.states[table.write], self.guesses[table.write] = marks[sure - 1], marks[sure:]

    def read(self, progress: Any, table: Any, marks: Sequence[object]) -> None:
        assert self.states[table.write] == marks[progress.cached + progress.scheduled - 1], "somebody else wrote it"

    def to_publish(self, hashes: Sequence[bytes], before: int, end: int) -> Sequence[bytes]:
        assert before // self.every == (end - 1) // self.every, "a step goes past a snapshot's place"
        return [hashes[end // self.size - 1]] if end % self.every == 0 else []

    def check(self, running: Mapping[Any, Any], digests: Mapping[object, bytes]) -> None:
        """Every state is free or held, by exactly as many as it counts; a snapshot is what its name says."""
        pool = self.group.pool
        holders = Counter(
            state for table in running.values() for state in {table.read, table.write} if state is not None
        )
        assert [holders[state] for state in range(pool.n_blocks)] == pool.references
        assert set(pool.free) == {state for state in range(pool.n_blocks) if holders[state] == 0}
        assert {digest: state for state, names in pool.hashes_of.items() for digest in names} == pool.block_of
        for digest, state in pool.block_of.items():
            assert digests[self.states[state]] == digest, "a snapshot holds something else"
        for progress, table in running.items():
            assert (table.read is None) == (progress.cached == 0)
