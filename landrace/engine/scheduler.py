"""`Scheduler`: which tokens the next step computes. Bookkeeping only, without torch.

Requests start in order of arrival, but one that lacks room does not hold up those behind it: the next few may pass,
though none is passed without end. What runs and what waits is kept in order of arrival, so the last one running is the
latest and the first one to lose its blocks.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from landrace.engine.block_pool import BlockPool, chain_hash
from landrace.engine.options import EngineOptions
from landrace.engine.request import Request

LOOK_PAST = 8
"""So many waiting requests are looked at behind the first when that one cannot start."""
MAX_PASSED = 16
"""So many later arrivals start before a waiting request; then nobody passes it any more."""


@dataclass(frozen=True)
class Step:
    """One step's work."""

    requests: tuple[Request, ...]
    """The requests to compute, in packed order: decode rows, then prefill chunks."""
    outgrown: tuple[Request, ...]
    """Requests that need more cache than there is; the caller ends them."""


class Scheduler:
    """Continuous batching with chunked prefill, prefix reuse and pre-emption by recomputation.

    A newcomer gets blocks for all its tokens when it is admitted, so prefill never runs dry; only decode steps take
    further blocks, one at a time.
    """

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self.pool = BlockPool(options.n_blocks)
        self.running: list[Request] = []
        self.waiting: list[Request] = []
        self._n_arrived = 0

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, request: Request) -> None:
        """Queues a request behind all others, nothing of it computed. The caller has checked that its prompt fits."""
        _let_go(request)
        request.place = self._n_arrived
        self._n_arrived += 1
        self.waiting.append(request)

    def remove(self, request: Request, *, sound: bool = True) -> None:
        """Takes a request out, wherever it is, and frees its blocks; unsound contents are not shared any more."""
        if not sound:
            for block in request.blocks:
                self.pool.forget(block)
        if request in self.running:
            self.running.remove(request)
            self.pool.release(request.blocks)
            request.blocks = []
        else:
            self.waiting.remove(request)

    def schedule(self) -> Step:
        """Plans one step: decode rows first, then prefill under way, then newcomers, each in order of arrival."""
        budget = self.options.max_step_tokens
        chosen: list[Request] = []
        outgrown: list[Request] = []
        n_running = len(self.running)
        for request in self.running:  # pre-emption only shortens the list from its end
            if budget == 0:
                break
            if request.held - request.cached != 1:
                continue
            if self._make_room(request):
                budget -= self._plan(request, budget, chosen)
            elif len(self.running) > 1:
                self._preempt_last()
            else:
                outgrown.append(request)
        preempted = len(self.running) < n_running
        for request in self.running:
            if budget > 0 and request.held - request.cached > 1:
                budget -= self._plan(request, budget, chosen)
        while budget > 0 and not preempted and (newcomer := self._admit()) is not None:
            budget -= self._plan(newcomer, budget, chosen)
        return Step(tuple(chosen), tuple(outgrown))

    def commit(self, request: Request, token: int | None) -> None:
        """Books a computed interval and the token sampled after it, if there was one; publishes the blocks now full."""
        request.cached += request.scheduled
        request.scheduled = 0
        request.scored = max(request.scored, min(request.cached + 1, len(request.prompt_ids)))
        if self.options.prefix_cache:
            self._publish(request)
        if token is not None:
            request.tokens.append(token)

    def _blocks_for(self, n_tokens: int) -> int:
        return -(-n_tokens // self.options.block_size)

    @staticmethod
    def _plan(request: Request, budget: int, chosen: list[Request]) -> int:
        request.scheduled = min(request.held - request.cached, budget)
        chosen.append(request)
        return request.scheduled

    def _make_room(self, request: Request) -> bool:
        """Gives a running request the block its next token needs, taking those of later arrivals if it must."""
        missing = self._blocks_for(request.held) - len(request.blocks)
        while not self.pool.fits((), missing):
            if self.running[-1] is request:
                return False
            self._preempt_last()
        request.blocks += self.pool.take(missing)
        return True

    def _preempt_last(self) -> None:
        """The latest arrival loses its blocks and goes back to its place in the queue, to be computed again."""
        request = self.running.pop()
        self.pool.release(request.blocks)
        _let_go(request)
        request.preemptions += 1
        insort(self.waiting, request, key=_place)

    def _admit(self) -> Request | None:
        """Moves the first waiting request that can start now to the running ones and returns it."""
        if len(self.running) >= self.options.most_running:
            return None
        for index, request in enumerate(self.waiting[: 1 + LOOK_PAST]):
            if self._start(request):
                for passed in self.waiting[:index]:
                    passed.passed += 1
                del self.waiting[index]
                insort(self.running, request, key=_place)
                return request
            if request.passed >= MAX_PASSED:
                return None
        return None

    def _start(self, request: Request) -> bool:
        """Gives a waiting request the blocks of all its tokens, if there is room for it now."""
        hits = self._prefix(request)
        if hits is None:
            return False
        fresh = self._blocks_for(request.held) - len(hits)
        # One block of headroom for each running request: else the newcomer would be pre-empted at once.
        if not self.pool.fits(hits, fresh + len(self.running)):
            return False
        self.pool.share(hits)
        request.blocks = hits + self.pool.take(fresh)
        request.published = len(hits)
        request.cached = len(hits) * self.options.block_size
        if request.prefix_hit is None:
            request.prefix_hit = request.cached
        return True

    def _prefix(self, request: Request) -> list[int] | None:
        """Blocks the request can reuse; None: a running request is computing its next one, so waiting saves work.

        The first row whose logits are wanted must be computed, so reuse ends before it.
        """
        if not self.options.prefix_cache:
            return []
        first_wanted = (request.scored if request.scored < len(request.prompt_ids) else request.held) - 1
        n_blocks = first_wanted // self.options.block_size
        hits = self.pool.lookup(self._hashes(request, n_blocks))
        if len(hits) < n_blocks and any(_will_publish(other, len(hits), request.hashes) for other in self.running):
            return None
        return hits

    def _hashes(self, request: Request, n_blocks: int) -> Sequence[bytes]:
        size = self.options.block_size
        for index in range(len(request.hashes), n_blocks):
            parent = request.hashes[-1] if index else request.root
            request.hashes.append(chain_hash(parent, request.tokens[index * size : (index + 1) * size]))
        return request.hashes[:n_blocks]

    def _publish(self, request: Request) -> None:
        n_full = request.cached // self.options.block_size
        if n_full > request.published:
            digests = self._hashes(request, n_full)
            for index in range(request.published, n_full):
                self.pool.publish(request.blocks[index], digests[index])
            request.published = n_full


def _place(request: Request) -> int:
    return request.place


def _let_go(request: Request) -> None:
    """Notes that nothing of a request is computed or held any more."""
    request.blocks = []
    request.cached = request.scheduled = request.published = 0


def _will_publish(request: Request, index: int, hashes: Sequence[bytes]) -> bool:
    """Whether a running request has yet to compute the block that `hashes[index]` names."""
    return request.published <= index < len(request.hashes) and request.hashes[index] == hashes[index]
