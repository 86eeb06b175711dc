"""`Scheduler`: which tokens the next step computes. Bookkeeping only, without torch.

Requests start when it is their client's turn (`Clients`), each client's own by priority and arrival, but one that lacks
room, or that waits for a prefix, does not hold up those behind it. Of those that run, the last by rank is the first one
to lose what it holds.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from landrace.engine.cache.cache import Cache
from landrace.engine.clients import Clients, Rank, account_of
from landrace.engine.options import EngineOptions
from landrace.engine.pace import Pace
from landrace.engine.progress import Progress
from landrace.engine.shares import shares

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

    `cache` has room for any one request alone, whatever step it is in: so the first by rank always finds room, since it
    can have what the others hold.
    """

    def __init__(self, options: EngineOptions, cache: Cache, pace: Pace | None = None) -> None:
        """`pace`: what bounds a step in time beside `options.max_step_tokens`."""
        self.options = options
        self.cache = cache
        self.running: list[Progress] = []
        """In order of arrival, like those that wait."""
        self.waiting: list[Progress] = []
        self._clients = Clients()
        self._pace = pace or Pace(0.0)
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
        self._clients.arrive(progress, self.waiting)
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
        self._clients.leave(progress)

    def go_on(self, progress: Progress, then: Progress) -> None:
        """`then` takes the place of a request in the order of arrival, nothing of it computed."""
        then.place = progress.place
        self._clients.arrive(then, self.waiting)
        self.remove(progress)
        insort(self.waiting, then, key=_place)

    def preempt(self, progress: Progress) -> None:
        """One that runs loses what it holds and goes back to its place in the queue, to be computed again."""
        self.running.remove(progress)
        self.cache.release(progress.tables)
        _let_go(progress)
        progress.preemptions += 1
        self._preempted += 1
        progress.draft = []
        insort(self.waiting, progress, key=_place)

    def schedule(self) -> Plan:
        """Plans one step: whoever can start does, then the step's tokens are shared out."""
        self._preempted = self._reused = 0
        self._admit()
        order = list(self._clients.ranks(self.running))
        own = self._shares(order)
        work = []
        for progress in order:  # pre-emption only shortens the list from its end
            if (share := own.get(progress, 0)) > 0:
                end = self.cache.cut(progress.cached, progress.cached + share)
                if self._make_room(progress, end, order):
                    progress.scheduled = end - progress.cached
                    self._clients.charge(progress, progress.scheduled)
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

    def _shares(self, order: Sequence[Progress]) -> dict[Progress, int]:
        """How many tokens each running request gets of a step. Streams of the lowest lanes can wait, so that no step is
        cut short for them."""
        streams = sum(progress.decodes for progress in order)
        hurry = any(progress.decodes and account_of(progress)[0] == 0 for progress in order)
        price = self._pace.prices(streams if hurry else 0, self.options.max_step_tokens - streams)
        return shares(
            order, self.options.max_step_tokens, lambda progress: price(progress.cached), self._clients.served
        )

    def _make_room(self, progress: Progress, end: int, order: list[Progress]) -> bool:
        """Gives a running request room for its tokens before `end`, taking that of the last in order if it must."""
        while not self.cache.grow(progress.tables, end):
            last = order.pop()
            self.preempt(last)
            if last is progress:
                return False
        return True

    def _admit(self) -> None:
        """Moves to the running ones whoever can start now."""
        lacking: list[Progress] = []
        ranks = self._clients.ranks(self.running)
        for progress in islice(self._clients.in_turn(self.waiting, self.running), LOOK_AT):
            rank = self._clients.next_rank(progress)
            last = next(reversed(ranks.values()), rank)
            if len(self.running) == self.options.most_running and not _may_take(rank, last):
                continue
            length = self._prefix(progress, rank, ranks)
            if length is None:
                continue
            lane = account_of(progress)[0]
            starved = [other for other in lacking if other.passed >= MAX_PASSED and account_of(other)[0] >= lane]
            below = [other for other, own in ranks.items() if _may_take(rank, own)]
            preempted = self._preempted
            if all(self._leaves_room(progress, other) for other in starved) and self._start(progress, length, below):
                for other in lacking:
                    other.passed += 1
            else:
                lacking.append(progress)
            if progress in self.running or self._preempted != preempted:
                ranks = self._clients.ranks(self.running)

    def _start(self, progress: Progress, length: int, below: list[Progress]) -> bool:
        """Moves a waiting request that goes on from a usable length to the running ones, if there is room for it now,
        or once the last of those below it have lost theirs."""
        while not self._enter(progress, length):
            others = [other.held + self.options.block_size for other in self.running if other not in below]
            if not below or not self.cache.together([*others, progress.held + self.options.block_size]):
                return False
            self.preempt(below.pop())
        return True

    def _enter(self, progress: Progress, length: int) -> bool:
        """Moves it if there is room for it now, and for the next token of each that runs: else it would be pre-empted
        at once."""
        if len(self.running) == self.options.most_running:
            return False
        size = self.options.block_size
        hashes = progress.hash_blocks(length // size, size)
        tables = self.cache.admit(hashes, length, progress.held, headroom=len(self.running))
        if tables is None:
            return False
        self._clients.start(progress)
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

    def _prefix(self, progress: Progress, rank: Rank, ranks: Mapping[Progress, Rank]) -> int | None:
        """The tokens that a request need not compute; None: a running request that ranks no lower is computing the next
        of them, so waiting saves work."""
        if not self.options.prefix_cache:
            return 0
        size = self.options.block_size
        limit = progress.reusable // size * size
        hashes = progress.hash_blocks(limit // size, size)
        length = self.cache.usable(hashes, limit)
        if length < limit and any(
            own <= rank and _will_publish(other, length // size, hashes, size) for other, own in ranks.items()
        ):
            return None
        return length


def _place(progress: Progress) -> int:
    return progress.place


def _is_prompt(progress: Progress) -> bool:
    return not progress.decodes


def _may_take(rank: Rank, other: Rank) -> bool:
    """Whether a newcomer may take the place of one that runs: in a lower lane, or where the newcomer's client has none
    and the other's has several."""
    return other[0] > rank[0] or (other[0] == rank[0] and rank[1] == 0 and other[1] > 0)


def _let_go(progress: Progress) -> None:
    """Notes that nothing of a request is computed or held any more."""
    progress.tables = []
    progress.cached = progress.scheduled = 0


def _will_publish(progress: Progress, index: int, hashes: Sequence[bytes], block_size: int) -> bool:
    """Whether a running request has yet to compute the block that `hashes[index]` names."""
    known = progress.hashes
    return progress.cached // block_size <= index < len(known) and known[index] == hashes[index]
