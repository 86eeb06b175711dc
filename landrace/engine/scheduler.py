"""`Scheduler`: which tokens the next step computes. Bookkeeping only, without torch.

What runs and what waits is kept in order of arrival. Requests start in that order, but one that lacks room, or that
waits for a prefix, does not hold up those behind it. The last one running is the latest and the first one to lose what
it holds.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from landrace.engine.cache.cache import Cache
from landrace.engine.options import EngineOptions
from landrace.engine.progress import Progress

LOOK_AT = 128
"""So many waiting requests are looked at in a step, so that a long queue costs little."""
MAX_PASSED = 16
"""So many later arrivals start before a request that lacks room; then only those that leave room for it do."""


@dataclass(frozen=True)
class Plan:
    """One step's work."""

    work: tuple[Progress, ...]
    """The requests to compute, in packed order: decode rows, then prefill chunks."""
    preempted: int = 0
    """How many lost what they held."""
    reused: int = 0
    """Tokens that those who started for the first time found in the cache."""


class Scheduler:
    """Continuous batching with chunked prefill, prefix reuse and pre-emption by recomputation.

    `cache` has room for any one request alone, whatever step it is in: so the first to arrive always moves, since it
    can have what the others hold.
    """

    def __init__(self, options: EngineOptions, cache: Cache) -> None:
        self.options = options
        self.cache = cache
        self.running: list[Progress] = []
        self.waiting: list[Progress] = []
        self._n_arrived = 0
        self._preempted = self._reused = 0

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, progress: Progress) -> None:
        """Queues a request behind all others, nothing of it computed. The caller has checked that it fits, and ends it
        when it has as many tokens as the cache takes of one."""
        _let_go(progress)
        progress.place = self._n_arrived
        self._n_arrived += 1
        self.waiting.append(progress)

    def remove(self, progress: Progress, *, sound: bool = True) -> None:
        """Takes a request out, wherever it is, and frees what it holds; unsound contents are not shared any more."""
        if not sound:
            self.cache.withdraw(progress.hashes)
        if progress in self.running:
            self.running.remove(progress)
            self.cache.release(progress.tables)
            _let_go(progress)
        else:
            self.waiting.remove(progress)

    def go_on(self, progress: Progress, then: Progress) -> None:
        """`then` takes the place of a request in the order of arrival, nothing of it computed."""
        self.remove(progress)
        then.place = progress.place
        insort(self.waiting, then, key=_place)

    def preempt(self, progress: Progress) -> None:
        """One that runs loses what it holds and goes back to its place in the queue, to be computed again."""
        self.running.remove(progress)
        self.cache.release(progress.tables)
        _let_go(progress)
        progress.preemptions += 1
        progress.draft = []
        insort(self.waiting, progress, key=_place)

    def schedule(self) -> Plan:
        """Plans one step: whoever can start does, then the step's tokens are shared out."""
        self._preempted = self._reused = 0
        self._admit()
        shares = self._shares()
        work = []
        for progress in self.running:  # pre-emption only shortens the list from its end
            if (share := shares.get(progress, 0)) > 0:
                end = self.cache.cut(progress.cached, progress.cached + share)
                if self._make_room(progress, end):
                    progress.scheduled = end - progress.cached
                    work.append(progress)
        return Plan(tuple(sorted(work, key=_is_prompt)), self._preempted, self._reused)

    def commit(self, progress: Progress, tokens: Sequence[int], forced: int = 0) -> None:
        """Books a computed interval and the tokens chosen from its last rows; publishes what is whole now.

        The last `forced` of `tokens` were not chosen but forced. They are not computed yet, nor is the one before them;
        those before that are: they were the draft.
        """
        before, prompt = progress.cached, len(progress.request.prompt_ids)
        sure = before + progress.scheduled
        progress.tokens += tokens
        if tokens:
            progress.cached, progress.forced = progress.held - 1 - forced, forced
        else:
            progress.cached = sure
        progress.scheduled, progress.draft = 0, []
        progress.scored = max(progress.scored, min(progress.cached + 1, prompt))
        hashes: Sequence[bytes] = ()
        if self.options.prefix_cache:
            hashes = progress.hash_blocks(progress.cached // self.options.block_size, self.options.block_size)
        self.cache.committed(progress.tables, hashes, before, progress.cached, sure)

    def _shares(self) -> dict[Progress, int]:
        """How many tokens each running request gets of a step.

        Those that decode get one each. Of the rest, half goes to the first prompt in order of arrival, so that it ends
        whatever arrives, and what is left to those with least to compute, forced tokens included, so that none waits
        for a longer one.
        """
        shares = {progress: 1 for progress in self.running if progress.decodes}
        budget = self.options.max_step_tokens - len(shares)
        prompts = [progress for progress in self.running if not progress.decodes]
        for first in prompts[:1]:
            shares[first] = min(first.left, -(-budget // 2))
            budget -= shares[first]
        for progress in sorted(self.running, key=_left):
            more = min(progress.left - shares.get(progress, 0), budget)
            shares[progress] = shares.get(progress, 0) + more
            budget -= more
        return shares

    def _make_room(self, progress: Progress, end: int) -> bool:
        """Gives a running request room for its tokens before `end`, taking that of later arrivals if it must."""
        while not self.cache.grow(progress.tables, end):
            last = self.running[-1]
            self._preempt_last()
            if last is progress:
                return False
        return True

    def _preempt_last(self) -> None:
        self.preempt(self.running[-1])
        self._preempted += 1

    def _admit(self) -> None:
        """Moves to the running ones whoever can start now."""
        lacking: list[Progress] = []
        for progress in self.waiting[:LOOK_AT]:
            if len(self.running) == self.options.most_running:
                return
            length = self._prefix(progress)
            if length is None:
                continue
            starved = [other for other in lacking if other.passed >= MAX_PASSED]
            if all(self._leaves_room(progress, other) for other in starved) and self._start(progress, length):
                for other in lacking:
                    other.passed += 1
            else:
                lacking.append(progress)

    def _start(self, progress: Progress, length: int) -> bool:
        """Moves a waiting request that goes on from a usable length to the running ones, if there is room for it now,
        and for the next token of each that runs: else it would be pre-empted at once."""
        size = self.options.block_size
        hashes = progress.hash_blocks(length // size, size)
        tables = self.cache.admit(hashes, length, progress.held, headroom=len(self.running))
        if tables is None:
            return False
        progress.tables = tables
        progress.cached = length
        if progress.prefix_hit is None:
            progress.prefix_hit = length
            self._reused += length
        self.waiting.remove(progress)
        insort(self.running, progress, key=_place)
        return True

    def _leaves_room(self, progress: Progress, starved: Progress) -> bool:
        """Whether the starved request could start beside this one, once all that arrived before it have ended."""
        later = [other.held + self.options.block_size for other in self.running if other.place > starved.place]
        return self.cache.together([*later, progress.held + self.options.block_size, starved.held])

    def _prefix(self, progress: Progress) -> int | None:
        """The tokens that a request need not compute; None: a running request is computing the next of them, so waiting
        saves work."""
        if not self.options.prefix_cache:
            return 0
        size = self.options.block_size
        limit = progress.reusable // size * size
        hashes = progress.hash_blocks(limit // size, size)
        length = self.cache.usable(hashes, limit)
        if length < limit and any(_will_publish(other, length // size, hashes, size) for other in self.running):
            return None
        return length


def _place(progress: Progress) -> int:
    return progress.place


def _left(progress: Progress) -> int:
    return progress.left


def _is_prompt(progress: Progress) -> bool:
    return not progress.decodes


def _let_go(progress: Progress) -> None:
    """Notes that nothing of a request is computed or held any more."""
    progress.tables = []
    progress.cached = progress.scheduled = 0


def _will_publish(progress: Progress, index: int, hashes: Sequence[bytes], block_size: int) -> bool:
    """Whether a running request has yet to compute the block that `hashes[index]` names."""
    known = progress.hashes
    return progress.cached // block_size <= index < len(known) and known[index] == hashes[index]
