"""The bookkeeping of the engine, driven as the engine drives it, over a memory that remembers what a model would have
computed into each place: random workloads, and a conservation law after every step."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import ModuleType
from typing import Any

from compressions import Entries, Every
from states import Snapshots, States

from landrace.engine import clients as clients_module
from landrace.engine import pace as pace_module
from landrace.engine import progress as progress_module
from landrace.engine import scheduler as scheduler_module
from landrace.engine import shares as shares_module
from landrace.engine.cache import cache as cache_module
from landrace.engine.cache import paged as paged_module
from landrace.engine.cache import pool as pool_module
from landrace.engine.cache import state as state_module
from landrace.engine.options import EngineOptions
from landrace.engine.request import Request
from landrace.engine.sampling_params import SamplingParams
from landrace.kernels.mask import FULL, Chunked, Mask, Sliding
from landrace.models.cache_spec import Paged


@dataclass(frozen=True)
class Bookkeeping:
    """The modules under test, so that others can stand in for them."""

    pool: ModuleType = pool_module
    paged: ModuleType = paged_module
    state: ModuleType = state_module
    cache: ModuleType = cache_module
    progress: ModuleType = progress_module
    clients: ModuleType = clients_module
    shares: ModuleType = shares_module
    pace: ModuleType = pace_module
    scheduler: ModuleType = scheduler_module


def next_token(tokens: Sequence[int]) -> int:
    """The simulated model: a function of all tokens so far, over few values so that prefixes meet."""
    return zlib.crc32(bytes(tokens)) % 2


def naive(prompt: Sequence[int], max_tokens: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(max_tokens):
        tokens.append(next_token(tokens))
    return tokens


class Pages:
    """A paged group and the simulated memory behind it."""

    def __init__(self, mask: Mask, options: EngineOptions, modules: Bookkeeping) -> None:
        self.mask, self.size = mask, options.block_size
        self.modules = modules
        spec = Paged(mask)
        self.group = modules.paged.PagedGroup(spec, modules.paged.blocks_of(spec, options), options.block_size)
        self.places: dict[tuple[int, int], object] = {}

    def write(self, progress: Any, table: Any, marks: Sequence[object]) -> None:
        pool = self.group.pool
        for position in range(progress.cached, len(marks)):
            block = table.block_at(position // self.size)
            assert pool.references[block] == 1, "a shared block was written"
            assert block not in pool.hashes_of, "a published block was written"
            self.places[block, position % self.size] = marks[position]

    def read(self, progress: Any, table: Any, marks: Sequence[object]) -> None:
        """Whatever a row of the step sees holds what it should."""
        end = len(marks)
        first = max(0, self.mask.first_seen(progress.cached))
        assert table.first * self.size <= first and table.end * self.size >= end
        for position in range(first, end):
            place = (table.block_at(position // self.size), position % self.size)
            assert self.places[place] == marks[position], "a position holds something else"

    def to_publish(self, hashes: Sequence[bytes], before: int, end: int) -> Sequence[bytes]:
        """What the tokens from `before` to `end` make whole."""
        return hashes[before // self.size : end // self.size]

    def check(self, running: Mapping[Any, Any], digests: Mapping[object, bytes]) -> None:
        """Every block is free or held, by exactly as many as it counts; what is published is what its name says."""
        pool = self.group.pool
        holders = Counter(block for table in running.values() for block in table.blocks)
        assert [holders[block] for block in range(pool.n_blocks)] == pool.references
        assert set(pool.free) == {block for block in range(pool.n_blocks) if holders[block] == 0}
        assert len(pool.free) + len(holders) == pool.n_blocks
        assert {digest: block for block, names in pool.hashes_of.items() for digest in names} == pool.block_of
        for digest, block in pool.block_of.items():
            assert digests[self.places[block, self.size - 1]] == digest, "a published block holds something else"
        for progress, table in running.items():
            assert len(set(table.blocks)) == len(table.blocks)
            first = max(0, self.mask.first_seen(progress.cached)) // self.size
            assert table.first == first, "exactly what no later row sees is given back"
            if self.mask != FULL:
                assert table.end <= max(-(-progress.cached // self.size), progress.cached // self.size + 1)


Kind = Mask | Snapshots | Every
Clock = Callable[[int, Sequence[tuple[int, int]]], float]
"""Seconds of a step with so many streams and these chunks of prompts."""


def simulated(kind: Kind, options: EngineOptions, modules: Bookkeeping) -> Pages | Entries | States:
    if isinstance(kind, Snapshots):
        return States(kind, options, modules.state)
    return Entries(kind, options, modules.paged) if isinstance(kind, Every) else Pages(kind, options, modules)


class Simulation:
    """Drives a scheduler as the engine does."""

    def __init__(
        self,
        options: EngineOptions,
        kinds: Sequence[Kind] = (FULL,),
        modules: Bookkeeping | None = None,
        *,
        drafts: bool = False,
        forces: bool = False,
        clock: Clock | None = None,
    ) -> None:
        """`clock`: how long steps take."""
        self.options = options
        self.drafts, self.forces, self.random = drafts, forces, Random(0)
        self.modules = modules or Bookkeeping()
        self.pages: list[Any] = [simulated(kept, options, self.modules) for kept in kinds]
        self.cache = self.modules.cache.Cache([pages.group for pages in self.pages])
        self.clock = clock
        self.seconds: list[float] = []
        """Of each step."""
        self.pace = self.modules.pace.Pace(options.stall_milliseconds / 1000)
        self.scheduler = self.modules.scheduler.Scheduler(options, self.cache, self.pace)
        self.arrivals: list[Any] = []
        self.finished: list[Any] = []
        self.scores: dict[Any, list[int]] = {}
        self.trace: list[tuple[str, int, int]] = []
        self.steps = 0
        self.started_past: dict[Any, list[Any]] = {}
        self.computed: Counter[str] = Counter()
        """By client: the tokens that were computed for it."""
        self.first_token: dict[Any, int] = {}
        """By request: the number of the step that gave its first token."""
        self.moved: dict[Any, int] = {}
        """By request: the last step that gave it a token."""
        self.pause: dict[Any, int] = {}
        """By request: most steps from one of its tokens to the next."""
        self._marks: dict[Any, list[object]] = {}
        self._digests: dict[object, bytes] = {}

    def add(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        score_from: int | None = None,
        root: bytes = b"r",
        extras: Mapping[int, bytes] | None = None,
        *,
        client: str = "",
        priority: int = 0,
    ) -> Any:
        params = SamplingParams(max_tokens=max_tokens, prompt_logprobs_from=score_from)
        request = Request(f"r{len(self.arrivals)}", tuple(prompt), params, client=client, priority=priority)
        progress = self.modules.progress.Progress(request, root, extras or {})
        self.arrivals.append(progress)
        self.scores[progress] = []
        self.scheduler.add(progress)
        return progress

    def remove(self, progress: Any, *, sound: bool = True) -> None:
        self.scheduler.remove(progress, sound=sound)
        self.check()

    def step(self) -> None:
        before = list(self.scheduler.running)
        work = self.scheduler.schedule().work
        for group, source, target in self.cache.take_copies():
            self.pages[group].copy(source, target)
        self.steps += 1
        self.note_passing(before)
        self.check_plan(work, before)
        self.check_lanes(work, before)
        for progress in work:
            self.computed[progress.request.client] += progress.scheduled
        if all(progress.decodes for progress in work):
            for progress in work:
                if progress.scheduled == progress.left:
                    progress.draft = self.draft(progress)
        if self.clock is not None:
            chunks = [(one.cached, one.cached + one.scheduled) for one in work if not one.decodes]
            streams = sum(progress.decodes for progress in work)
            self.seconds.append(self.clock(streams, chunks))
            self.pace.note(streams, chunks, self.seconds[-1])
        for act in ("write", "read"):  # the rows of a step are written before any of them looks
            for progress in work:
                marks = self.marks(progress)[: progress.cached + progress.scheduled]
                for guess in progress.draft:
                    marks.append(self.mark(progress, marks, guess))
                for pages, table in zip(self.pages, progress.tables, strict=True):
                    getattr(pages, act)(progress, table, marks)
        for progress in work:
            self.book(progress)
        self.check()

    def book(self, progress: Any) -> None:
        self.trace.append((progress.request.id, progress.cached, progress.scheduled))
        end = progress.cached + progress.scheduled
        for target in range(max(progress.scored, progress.cached + 1), min(len(progress.request.prompt_ids), end + 1)):
            self.scores[progress].append(target)
        whole = end == progress.held
        before = progress.cached
        tokens: list[int] = []
        for guess in [*progress.draft, None] if whole else []:
            tokens.append(next_token([*progress.tokens, *tokens]))
            if tokens[-1] != guess:
                break
        forced = self.forced(progress, tokens)
        self.scheduler.commit(progress, [*tokens, *forced], len(forced))
        assert progress.decodes or not whole, "whoever has a token decodes"
        marks = self.marks(progress)
        for pages in self.pages:
            if isinstance(pages, Entries):
                pages.note(progress.hashes, marks)
        assert progress.cached == end + max(0, len(tokens) - 1)
        end = progress.cached
        if self.options.prefix_cache:
            for pages in self.pages:
                for digest in pages.to_publish(progress.hashes, before, end):
                    assert digest in pages.group.pool.block_of, "what is whole is published"
        if whole:
            self.first_token.setdefault(progress, self.steps)
            pause = self.steps - self.moved.get(progress, self.steps)
            self.pause[progress] = max(self.pause.get(progress, 0), pause)
            self.moved[progress] = self.steps
        full = progress.held == self.options.cache_room
        if whole and (progress.n_output == progress.request.params.max_tokens or full):
            self.scheduler.remove(progress)
            self.finished.append(progress)

    def forced(self, progress: Any, tokens: Sequence[int]) -> list[int]:
        """What nobody chooses behind these tokens: as many as an engine could take."""
        if not self.forces or not tokens:
            return []
        held = [*progress.tokens, *tokens]
        room = min(
            progress.request.params.max_tokens - progress.n_output - len(tokens), self.options.cache_room - len(held)
        )
        most, before = self.random.choice((0, 0, 2, 9)), len(held)
        for _ in range(min(room, most)):
            held.append(next_token(held))
        return held[before:]

    def marks(self, progress: Any) -> list[object]:
        """What each position holds: a name for its own token and all before it, under the same root and extras."""
        marks = self._marks.setdefault(progress, [])
        size = self.options.block_size
        for position in range(len(marks), progress.held):
            marks.append(self.mark(progress, marks, progress.tokens[position]))
            if (position + 1) % size == 0:
                before: Any = marks[position - size] if position >= size else None
                root = self._digests[before] if before is not None else progress.root
                own = progress.tokens[position + 1 - size : position + 1]
                extra = progress.extras.get(position // size, b"")
                self._digests[marks[-1]] = pool_module.chain_hash(root, own, extra)
        return marks

    def mark(self, progress: Any, marks: Sequence[object], token: int) -> object:
        """The name of the position behind these."""
        parent = marks[-1] if marks else progress.root
        return hash((parent, token, progress.extras.get(len(marks) // self.options.block_size)))

    def draft(self, progress: Any) -> list[int]:
        """Guesses, often right, as far as an engine's go."""
        if not self.drafts:
            return []
        room = min(
            -progress.held % self.options.block_size,
            progress.request.params.max_tokens - progress.n_output - 1,
            self.options.cache_room - progress.held - 1,
            *(-progress.held % pages.every - 1 for pages in self.pages if isinstance(pages, States)),
        )
        tokens = list(progress.tokens)
        for _ in range(self.random.randrange(max(0, room) + 1)):
            tokens.append(next_token(tokens) if self.random.random() < 0.7 else self.random.randrange(2))
        return tokens[progress.held :]

    def note_passing(self, before: list[Any]) -> None:
        """Who started while whoever had arrived earlier went on waiting."""
        for newcomer in self.scheduler.running:
            if newcomer not in before:
                for earlier in self.scheduler.waiting:
                    if self.arrivals.index(earlier) < self.arrivals.index(newcomer):
                        self.started_past.setdefault(earlier, []).append(newcomer)

    def check_plan(self, work: Sequence[Any], before: list[Any]) -> None:
        running = self.scheduler.running
        assert sum(progress.scheduled for progress in work) <= self.options.max_step_tokens
        assert len(set(work)) == len(work)
        assert len(running) <= self.options.most_running
        prompts = [not progress.decodes for progress in work]
        assert prompts == sorted(prompts), "decode rows go first"
        for progress in work:
            assert progress in running
            assert progress.scheduled >= 1
            assert progress.cached + progress.scheduled <= progress.held
        assert work or not running, "somebody always moves"
        alike = len({(progress.request.client, progress.request.priority) for progress in running}) == 1
        assert not alike or running[0] in work, "the first to arrive always moves"
        preempted = any(progress.preemptions for progress in self.scheduler.waiting)
        cut = any(isinstance(pages, States) for pages in self.pages)
        for progress in running:
            assert progress in work or not progress.decodes, "no stream pauses"
        spent = sum(progress.scheduled for progress in work)
        assert (
            preempted
            or cut
            or self.options.stall_milliseconds
            or spent == min(self.options.max_step_tokens, sum(progress.left for progress in running))
        ), "no token of a step is left over while somebody wants it"

    def check_lanes(self, work: Sequence[Any], before: list[Any]) -> None:
        """Whoever ranks lower has what the others leave."""
        running = self.scheduler.running
        cut = any(isinstance(pages, States) for pages in self.pages)
        preempted = [progress for progress in before if progress not in running]
        for progress in running:
            if not (progress.decodes or progress.scheduled == progress.left or cut or preempted):
                for other in work:
                    assert other.decodes or lane_of(other) >= lane_of(progress), "a lower lane's prompt goes first"
        for progress in preempted:
            for other in running:
                assert other not in before or lane_of(other) >= lane_of(progress), "a lower lane keeps its room"
            own = Counter(other.request.client for other in running if lane_of(other) == 0)
            if lane_of(progress) == 0 and not own[progress.request.client]:
                assert all(n < 2 for n in own.values()), "a client's second keeps its room, another's only one does not"

    def check(self) -> None:
        """Conservation, and the order of things."""
        scheduler = self.scheduler
        for index, pages in enumerate(self.pages):
            tables = {progress: progress.tables[index] for progress in scheduler.running}
            pages.check(tables, self._digests)
        for progress in scheduler.running:
            assert 0 <= progress.cached < progress.held
            assert progress.scheduled == 0
        for progress in scheduler.waiting:
            assert progress.tables == [] and progress.cached == progress.scheduled == 0
        for requests in (scheduler.running, scheduler.waiting):
            order = [self.arrivals.index(progress) for progress in requests]
            assert order == sorted(order), "what runs and what waits is kept in order of arrival"

    def run(self, limit: int = 5000) -> None:
        for _ in range(limit):
            if not self.scheduler.has_work:
                return
            self.step()
        raise AssertionError("the scheduler makes no progress")

    def check_to_the_end(self, aborted: Sequence[Any] = ()) -> None:
        self.run()
        for pages in self.pages:
            assert len(pages.group.pool.free) == pages.group.pool.n_blocks
        for progress in self.arrivals:
            expected = naive(progress.request.prompt_ids, progress.request.params.max_tokens)
            expected = expected[: self.options.cache_room]
            assert progress.tokens == expected[: progress.held]
            if progress in self.finished:
                assert progress.held == len(expected)
                first, end = progress.request.params.prompt_logprobs_from, len(progress.request.prompt_ids)
                assert self.scores[progress] == list(range(first or end, end)), "each score once"
            else:
                assert progress in aborted


def lane_of(progress: Any) -> int:
    return min(progress.request.priority, 0)


def kinds_of(draw: Random) -> dict[str, Sequence[Kind]]:
    """Kinds of models, by name."""
    window, chunk = draw.choice((1, 2, 3, 5, 9)), draw.choice((1, 3, 4, 8))
    return {
        "paged": (FULL,),
        "paged and sliding": (FULL, Sliding(window)),
        "sliding and chunked": (Sliding(window), Chunked(chunk)),
        "chunked and paged": (Chunked(chunk), FULL),
        "sliding alone": (Sliding(window),),
        "two windows": (Sliding(window), Sliding(window + 3), FULL),
        "paged and states": (FULL, Snapshots(draw.choice((1, 2, 4)), draw.choice((1, 3, 8)))),
        "states alone": (Snapshots(draw.choice((1, 2)), 5),),
        "a window and few states": (Sliding(window), Snapshots(1, -2)),
        "a window and entries of several positions": (Sliding(window), Every(2 + window % 2), Every(chunk + 3)),
    }


KINDS = tuple(kinds_of(Random(0)))


def crowd(kind: str, seed: int, modules: Bookkeeping | None = None, n_requests: int = 60) -> Simulation:
    """A long random run in which pre-emption, prefix hits and eviction happen; checked to its end. From seed 6 on there
    are several clients and lanes."""
    random = Random(seed)
    options = EngineOptions(
        block_size=random.choice([1, 2, 3, 4]),
        cache_tokens=48,
        max_step_tokens=random.choice([5, 12, 40]),
        max_running=random.choice([4, 5]),
    )
    simulation = Simulation(options, kinds_of(random)[kind], modules, drafts=seed % 2 == 1, forces=seed % 3 != 0)
    aborted = []
    for _ in range(n_requests):
        prompt = [random.randrange(2) for _ in range(random.randrange(1, 12))]
        scores = random.random() < 0.2 and len(prompt) > 1
        score_from = random.randrange(1, len(prompt)) if scores else None
        whose = {"client": random.choice("abc"), "priority": random.choice((-2, -1, 0, 0, 1))} if seed >= 6 else {}
        simulation.add(prompt, random.randrange(1, 40), score_from, **whose)
        for _ in range(random.randrange(6)):
            simulation.step()
        if random.random() < 0.1 and simulation.scheduler.running:
            aborted.append(random.choice(simulation.scheduler.running))
            simulation.remove(aborted[-1], sound=random.random() < 0.5)
    simulation.check_to_the_end(aborted)
    return simulation
