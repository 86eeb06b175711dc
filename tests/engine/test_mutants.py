# ruff: noqa: E501  mutated lines are quoted whole
"""Small mistakes in the bookkeeping, put in on purpose: the random workloads must catch every one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from fair import SCENARIOS
from simulation import KINDS, Bookkeeping, crowd

from landrace.engine import clients, pace, progress, scheduler, shares
from landrace.engine.cache import cache, paged, pool, state

IN_ORDER = (pool, paged, state, cache, progress, clients, shares, pace, scheduler)
"""Each imports earlier ones only."""
SEEDS = range(6)

MUTANTS: list[tuple[ModuleType, str, str]] = [
    (pool, "if self.references[block] == 0:\n                del self.free[block]", "if False:\n                pass"),
    (pool, "self.references[block] -= 1", "self.references[block] = 0"),
    (pool, "            self.forget(block)\n            self.references", "            self.references"),
    (pool, "self.references[block] = 1", "pass"),
    (pool, "fresh + sum(block in self.free for block in shared) <=", "fresh <="),
    (pool, "if digest not in self.block_of:", "if True:"),
    (pool, "            del self.block_of[digest]", "            pass"),
    (paged, "max(0, self.spec.mask.first_seen(position)) //", "max(0, self.spec.mask.first_seen(position) + 1) //"),
    (paged, "self._first_seen(cached) - table.first", "self._first_seen(cached + 1) - table.first"),
    (paged, "self._first_seen(cached) - table.first", "self._first_seen(before) - table.first"),
    (paged, "if unseen > 0:", "if unseen > 1:"),
    (paged, "self.pool.release(table.blocks[:unseen])", "pass"),
    (paged, "            table.first += unseen", "            pass"),
    (paged, "            del table.blocks[:unseen]", "            pass"),
    (paged, "range(before // self._entries, len(hashes))", "range(1 + before // self._entries, len(hashes))"),
    (paged, "self.pool.publish(table.block_at((end - 1) // self._size), hashes[index])", "pass"),
    (paged, "self.pool.publish(table.block_at((end - 1) // self._size), hashes[index])", "self.pool.publish(table.blocks[-1], hashes[index])"),
    (paged, "table.block_at((end - 1) // self._size)", "table.block_at(end // self._size)"),
    (paged, "self._copies.append((table.copied, table.block_at(first)))", "pass"),
    (paged, "hashes[length // self._entries - 1]", "hashes[length // self._entries - 2]"),
    (paged, "copies, self._copies = self._copies, []", "copies = self._copies"),
    (paged, "        self.pool.share(table.blocks)", "        pass"),
    (paged, "table.first = self._first_seen(length)", "table.first = 0"),
    (paged, "range(n_blocks - 1, self._first_seen(n_blocks * self._size) - 1, -1)", "range(n_blocks - 1, self._first_seen(n_blocks * self._size), -1)"),
    (paged, "self.pool.release(table.blocks)\n        table.blocks = []", "table.blocks = []"),
    (paged, "self.pool.take(self._blocks(end) - table.end)", "self.pool.take(self._blocks(end) - table.end + 1)"),
    (paged, "return self.pool.fits((), self._blocks(end) - table.end)", "return True"),
    (paged, "return self.blocks[index - self.first]", "return self.blocks[index - self.first - 1]"),
    (paged, "return -(-n_tokens // self._size)", "return n_tokens // self._size"),
    (state, "[self._snapshot(hashes, length)] if length else [], 1", "[], 1"),
    (state, "            self.pool.share([table.read])", "            pass"),
    (state, "self._is_its_own(table) or self.pool.fits((), 1)", "True"),
    (state, "        if table.write is not None:\n            return\n", ""),
    (state, "            self.pool.forget(table.read)\n", ""),
    (state, "min(end, (cached // self._every + 1) * self._every)", "end"),
    (state, "and table.read != table.write:", "and False:"),
    (state, "table.read, table.write, table.length = table.write, None, sure", "table.write = None"),
    (state, "table.write, None, sure", "table.write, None, cached"),
    (state, "self._snapshot(hashes, length), length", "self._snapshot(hashes, length), 0"),
    (state, "hashes and cached % self._every == 0", "hashes"),
    (state, "            self.pool.publish(table.read, hashes[-1])", "            pass"),
    (state, "{table.read, table.write} if state is not None]", "{table.read, table.write} if state != table.write]"),
    (state, "{table.read, table.write} if state is not None]", "{table.write} if state is not None]"),
    (state, "self.pool.references[table.read] == 1", "True"),
    (state, "hashes[length // self._size - 1]", "hashes[length // self._size - 2]"),
    (cache, "if length in (0, limit):", "if True:"),
    (cache, "        if not all(group.fits(hashes, length, held, headroom) for group in self.groups):\n            return None\n", ""),
    (cache, "if not all(group.grows(table, end) for group, table in own):", "if not any(group.grows(table, end) for group, table in own):"),
    (cache, "group.committed(table, hashes, before, cached, sure)", "group.committed(table, hashes, cached, cached, sure)"),
    (cache, "group.committed(table, hashes, before, cached, sure)", "group.committed(table, hashes, before, cached, before)"),
    (cache, "            group.release(table)", "            pass"),
    (progress, "self.hashes[-1] if index else self.root", "self.root"),
    (progress, "index * block_size : (index + 1) * block_size", "index * block_size : (index + 1) * block_size - 1"),
    (progress, "else self.held) - 1", "else self.held)"),
    (scheduler, "progress.cached, progress.forced = progress.held - 1 - forced, forced", "progress.cached, progress.forced = progress.held - forced, forced"),
    (scheduler, "progress.cached, progress.forced = progress.held - 1 - forced, forced", "progress.cached, progress.forced = progress.held - 1, forced"),
    (scheduler, "progress.cached, progress.forced = progress.held - 1 - forced, forced", "progress.cached = progress.held - 1 - forced"),
    (shares, "if progress.decodes}", "if progress.left == 1}"),
    (shares, "        budget -= count * price(progress)", "        pass"),
    (scheduler, "sure = before + progress.scheduled", "sure = before + progress.scheduled + len(progress.draft)"),
    (scheduler, "        progress.cached = length\n", ""),
    (scheduler, "hash_blocks(progress.cached // self", "hash_blocks((progress.cached + 1) // self"),
    (scheduler, "        self.cache.release(progress.tables)\n        _let_go(progress)\n        progress.preemptions", "        _let_go(progress)\n        progress.preemptions"),
    (scheduler, "last = order.pop()", "last = order.pop(0)"),
    (scheduler, "            self.cache.release(progress.tables)\n            _let_go", "            _let_go"),
    (scheduler, "    progress.cached = progress.scheduled = 0", "    progress.scheduled = 0"),
    (scheduler, "insort(self.waiting, progress, key=_place)", "self.waiting.append(progress)"),
    (scheduler, "insort(self.running, progress, key=_place)", "self.running.append(progress)"),
    (scheduler, "max(progress.scored, min(progress.cached + 1, prompt))", "prompt"),
]  # fmt: skip

UNFAIR: list[tuple[ModuleType, str, str]] = [
    (clients, "min(progress.request.priority, 0), progress", "0, progress"),
    (clients, "1 + max(progress.request.priority, 0)", "1"),
    (clients, "self._started[account[0]], min(others, default=0.0))", "self._started[account[0]])"),
    (clients, "max(served, self._started[account[0]], min(others, default=0.0))", "min(others, default=0.0)"),
    (clients, "if all(account_of(other) != account for other in waiting):", "if True:"),
    (clients, "tokens / weight_of(progress)", "tokens"),
    (clients, "        self._served[account_of(progress)] += tokens / weight_of(progress)", "        pass"),
    (clients, "if self._served[account] <= self._started[account[0]]:", "if True:"),
    (clients, "if self._served[account] <= self._started[account[0]]:", "if False:"),
    (clients, "claim += queue[index].held / weight_of(queue[index])", "pass"),
    (clients, "key=lambda progress: -progress.request.priority)", "key=lambda progress: progress.place)"),
    (clients, "heap.append((-account[0], claims[account]", "heap.append((0, claims[account]"),
    (clients, "heap.append((-account[0], claims[account]", "heap.append((-account[0], 0.0"),
    (clients, "found.append((-account[0], depth[account], ", "found.append((0, depth[account], "),
    (clients, "found.append((-account[0], depth[account], ", "found.append((-account[0], 0, "),
    (clients, "            depth[account] += 1", "            pass"),
    (clients, "claims[account] += progress.left / weight_of(progress)", "pass"),
    (shares, "give(min(prompts, key=served), ", "give(prompts[0], "),
    (shares, "-(-budget // 2)", "budget"),
    (shares, "end = budget() * (1 - weight / total)", "end = 0.0"),
    (shares, "lanes.setdefault(account_of(progress)[0], [])", "lanes.setdefault(0, [])"),
    (scheduler, "for progress in islice(self._clients.in_turn(self.waiting, self.running), LOOK_AT):", "for progress in self.waiting[:LOOK_AT]:"),
    (scheduler, "and not _may_take(rank, last):", "and True:"),
    (scheduler, "own <= rank and ", ""),
    (scheduler, "self.preempt(below.pop())", "self.preempt(below.pop(0))"),
    (scheduler, "if not below or not self.cache.together([*others, progress.held + self.options.block_size]):", "if not below:"),
    (scheduler, "return other[0] > rank[0] or (", "return (other[0] > rank[0] and False) or ("),
    (scheduler, "(other[0] == rank[0] and rank[1] == 0 and other[1] > 0)", "False"),
    (scheduler, "(other[0] == rank[0] and rank[1] == 0 and other[1] > 0)", "(other[0] == rank[0] and other[1] > rank[1])"),
    (scheduler, "                    self._clients.charge(progress, progress.scheduled)\n", ""),
]  # fmt: skip
"""What serves one client, or one lane, at another's cost."""


@contextmanager
def mutated(module: ModuleType, old: str, new: str) -> Iterator[Bookkeeping]:
    """The bookkeeping with one module's source changed; the others import that one."""
    made: dict[str, ModuleType] = {}
    before = {own.__name__: own for own in IN_ORDER}
    try:
        for own in IN_ORDER:
            source = Path(str(own.__file__)).read_text(encoding="utf-8")
            if own is module:
                assert source.count(old) == 1, f"{old!r} is not there once"
                source = source.replace(old, new)
            copy = made[own.__name__] = ModuleType(own.__name__)
            sys.modules[own.__name__] = copy
            exec(compile(source, str(own.__file__), "exec"), vars(copy))
    finally:
        sys.modules.update(before)
    yield Bookkeeping(*made.values())


def workloads(modules: Bookkeeping) -> None:
    for seed in SEEDS:
        for kind in KINDS:
            crowd(kind, seed, modules, n_requests=25)


@pytest.mark.parametrize(("module", "old", "new"), MUTANTS, ids=range(len(MUTANTS)))
def test_a_mistake_is_caught(module: ModuleType, old: str, new: str) -> None:
    with mutated(module, old, new) as modules, pytest.raises((AssertionError, LookupError, TypeError, ValueError)):
        workloads(modules)


@pytest.mark.parametrize(("module", "old", "new"), UNFAIR, ids=range(len(UNFAIR)))
def test_unfairness_is_caught(module: ModuleType, old: str, new: str) -> None:
    with mutated(module, old, new) as modules, pytest.raises((AssertionError, LookupError)):
        for scenario in SCENARIOS:
            scenario(modules)


def test_without_a_mistake_there_is_nothing_to_catch() -> None:
    with mutated(pool, "class BlockPool", "class BlockPool") as modules:
        workloads(modules)
