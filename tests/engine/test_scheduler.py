"""The bookkeeping against a simulated cache: random workloads, and a conservation law after every step."""

from __future__ import annotations

import zlib
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landrace.engine.block_pool import BlockPool, chain_hash, root_hash
from landrace.engine.options import EngineOptions
from landrace.engine.request import Request
from landrace.engine.sampling_params import SamplingParams
from landrace.engine.scheduler import LOOK_PAST, MAX_PASSED, Scheduler


def next_token(tokens: list[int]) -> int:
    """The simulated model: a function of all tokens so far, over few values so that prefixes meet."""
    return zlib.crc32(bytes(tokens)) % 2


class Simulation:
    """Drives a scheduler as the engine does, and keeps in each slot what a model would have computed there."""

    def __init__(self, options: EngineOptions) -> None:
        self.scheduler = Scheduler(options)
        self.options = options
        self.slots: dict[tuple[int, int], tuple[bytes, tuple[int, ...]]] = {}
        self.arrivals: list[Request] = []
        self.finished: list[Request] = []
        self.outgrown: list[Request] = []
        self.scores: dict[Request, list[int]] = {}
        self.trace: list[tuple[str, int, int]] = []
        self.started_past: dict[Request, list[Request]] = {}

    def add(self, prompt: list[int], max_tokens: int, score_from: int | None = None, root: bytes = b"r") -> Request:
        params = SamplingParams(max_tokens=max_tokens, prompt_logprobs_from=score_from)
        request = Request(f"r{len(self.arrivals)}", tuple(prompt), params)
        request.root = root
        self.arrivals.append(request)
        self.scores[request] = []
        self.scheduler.add(request)
        return request

    def remove(self, request: Request) -> None:
        self.scheduler.remove(request)
        self.check()

    def step(self) -> None:
        before = list(self.scheduler.running)
        step = self.scheduler.schedule()
        self.note_passing(before)
        self.check_plan(step.requests, before)
        for request in step.requests:  # all of a step is computed before any of it is booked
            self.compute(request)
        for request in step.requests:
            self.trace.append((request.id, request.cached, request.scheduled))
            whole = request.cached + request.scheduled == request.held
            self.scheduler.commit(request, next_token(request.tokens) if whole else None)
            if whole and request.n_output == request.params.max_tokens:
                self.scheduler.remove(request)
                self.finished.append(request)
        for request in step.outgrown:
            self.scheduler.remove(request)
            self.outgrown.append(request)
        self.check()

    def note_passing(self, before: list[Request]) -> None:
        """Who started while whoever had arrived earlier went on waiting."""
        for newcomer in self.scheduler.running:
            if newcomer not in before:
                for earlier in self.scheduler.waiting:
                    if self.arrivals.index(earlier) < self.arrivals.index(newcomer):
                        self.started_past.setdefault(earlier, []).append(newcomer)

    def compute(self, request: Request) -> None:
        size = self.options.block_size
        for position in range(request.cached + request.scheduled):
            place = (request.blocks[position // size], position % size)
            contents = (request.root, tuple(request.tokens[: position + 1]))
            if position < request.cached:
                assert self.slots[place] == contents, "a cached position holds something else"
            else:
                assert self.scheduler.pool.references[place[0]] == 1, "a shared block was written"
                assert place[0] not in self.scheduler.pool.hash_of, "a published block was written"
                self.slots[place] = contents
                target = position + 1
                if request.scored <= target < len(request.prompt_ids):
                    self.scores[request].append(target)

    def check_plan(self, chosen: tuple[Request, ...], before: list[Request]) -> None:
        assert sum(request.scheduled for request in chosen) <= self.options.max_step_tokens
        assert len(set(chosen)) == len(chosen)
        assert len(self.scheduler.running) <= self.options.most_running
        decoding = [request in before and request.held - request.cached == 1 for request in chosen]
        assert decoding == sorted(decoding, reverse=True), "decode rows go first"
        for request in chosen:
            assert request in self.scheduler.running
            assert request.scheduled >= 1
            assert request.cached + request.scheduled <= request.held
            assert len(request.blocks) * self.options.block_size >= request.cached + request.scheduled
        assert chosen or not self.scheduler.running or len(self.scheduler.running) == 1, "somebody always moves"
        running = self.scheduler.running
        assert set(running) <= {*chosen, *before} and (len(running) == 1 or set(running) == set(chosen)), (
            "everybody who runs moves in every step"
        )

    def check(self) -> None:
        """Conservation: every block is free or held, by exactly as many as it counts."""
        pool, scheduler = self.scheduler.pool, self.scheduler
        holders = Counter(block for request in scheduler.running for block in request.blocks)
        assert [holders[block] for block in range(pool.n_blocks)] == pool.references
        assert set(pool.free) == {block for block in range(pool.n_blocks) if holders[block] == 0}
        assert len(pool.free) + len(holders) == pool.n_blocks
        assert {digest: block for block, digest in pool.hash_of.items()} == pool.block_of
        size = self.options.block_size
        for block, digest in pool.hash_of.items():
            root, tokens = self.slots[(block, size - 1)]
            assert digest == self.expected_hash(root, tokens), "a published block holds something else"
        for request in scheduler.running:
            assert len(set(request.blocks)) == len(request.blocks)
            assert 0 < request.cached < request.held
            assert request.published <= request.cached // size or not self.options.prefix_cache
            assert request.scheduled == 0
        for request in scheduler.waiting:
            assert request.blocks == [] and request.cached == request.scheduled == request.published == 0
        for requests in (scheduler.running, scheduler.waiting):
            order = [self.arrivals.index(request) for request in requests]
            assert order == sorted(order), "what runs and what waits is kept in order of arrival"
        for request in scheduler.waiting:
            assert len(self.started_past.get(request, [])) <= MAX_PASSED, "nobody is passed without end"

    def expected_hash(self, root: bytes, tokens: tuple[int, ...]) -> bytes:
        size = self.options.block_size
        assert len(tokens) % size == 0
        for start in range(0, len(tokens), size):
            root = chain_hash(root, tokens[start : start + size])
        return root

    def run(self, limit: int = 5000) -> None:
        for _ in range(limit):
            if not self.scheduler.has_work:
                return
            self.step()
        raise AssertionError("the scheduler makes no progress")


def naive(prompt: list[int], max_tokens: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(max_tokens):
        tokens.append(next_token(tokens))
    return tokens


prompts = st.lists(st.integers(0, 1), min_size=1, max_size=14)
actions = st.one_of(
    st.tuples(st.just("add"), prompts, st.integers(1, 12), st.sampled_from([b"r", b"other"]), st.integers(0, 20)),
    st.tuples(st.just("step")),
    st.tuples(st.just("abort"), st.integers(0, 100)),
)
options = st.builds(
    lambda max_running, spare, **rest: EngineOptions(
        max_running=max_running, max_step_tokens=max_running + spare, **rest
    ),
    block_size=st.integers(1, 5),
    cache_tokens=st.integers(15, 60),
    max_running=st.integers(1, 6),
    spare=st.integers(0, 18),
    prefix_cache=st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(options, st.lists(actions, max_size=60))
def test_random_workloads(options: EngineOptions, actions: list[tuple]) -> None:
    simulation = Simulation(options)
    aborted = []
    for action in actions:
        if action[0] == "add":
            _, prompt, max_tokens, root, score_from = action
            if len(prompt) <= options.cache_room:
                score_from = score_from if 1 <= score_from < len(prompt) else None
                simulation.add(prompt, max_tokens, score_from, root)
        elif action[0] == "step":
            simulation.step()
        else:
            alive = [*simulation.scheduler.running, *simulation.scheduler.waiting]
            if alive:
                aborted.append(alive[action[1] % len(alive)])
                simulation.remove(aborted[-1])
    check_to_the_end(simulation, aborted)


@pytest.mark.parametrize("seed", range(40))
def test_crowded_pools(seed: int) -> None:
    """Long random runs in which pre-emption, prefix hits and eviction certainly happen."""
    random = Random(seed)
    options = EngineOptions(
        block_size=random.choice([1, 2, 3, 4]),
        cache_tokens=48,
        max_step_tokens=random.choice([5, 12, 40]),
        max_running=random.choice([4, 5]),
    )
    simulation = Simulation(options)
    aborted = []
    for _ in range(60):
        prompt = [random.randrange(2) for _ in range(random.randrange(1, 12))]
        scores = random.random() < 0.2 and len(prompt) > 1
        simulation.add(prompt, random.randrange(1, 40), random.randrange(1, len(prompt)) if scores else None)
        for _ in range(random.randrange(6)):
            simulation.step()
        if random.random() < 0.1 and simulation.scheduler.running:
            aborted.append(random.choice(simulation.scheduler.running))
            simulation.remove(aborted[-1])
    check_to_the_end(simulation, aborted)
    assert sum(request.preemptions for request in simulation.arrivals) > 0
    assert sum(request.prefix_hit or 0 for request in simulation.arrivals) > 0


def check_to_the_end(simulation: Simulation, aborted: list[Request]) -> None:
    options = simulation.options
    simulation.run()
    assert len(simulation.scheduler.pool.free) == options.n_blocks
    for request in simulation.arrivals:
        expected = naive(list(request.prompt_ids), request.params.max_tokens)
        assert request.tokens == expected[: request.held]
        if request in simulation.finished:
            assert request.held == len(expected)
            first = request.params.prompt_logprobs_from or len(request.prompt_ids)
            assert simulation.scores[request] == list(range(first, len(request.prompt_ids))), "each score once"
        elif request in simulation.outgrown:
            assert request.held == options.cache_room + 1
        else:
            assert request in aborted


def test_the_same_workload_runs_the_same_way() -> None:
    traces = []
    for _ in range(2):
        simulation = Simulation(EngineOptions(block_size=3, cache_tokens=40, max_step_tokens=9, max_running=4))
        for index in range(12):
            simulation.add([index % 2, 1, 0, index % 3 % 2] * (1 + index % 3), 6)
        simulation.run()
        traces.append(simulation.trace)
    assert traces[0] == traces[1]


def test_equal_prompts_share_blocks_and_wait_for_each_other() -> None:
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=400, max_step_tokens=100))
    requests = [simulation.add([1, 0] * 10, 4) for _ in range(6)]
    simulation.run()
    assert [request.prefix_hit for request in requests] == [0] + [16] * 5
    computed = sum(count for _, first, count in simulation.trace if first < 20)
    assert computed == 20 + 5 * 4


def test_a_fully_cached_prompt_still_computes_its_last_token() -> None:
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=400))
    simulation.add([1] * 8, 1)
    simulation.run()
    again = simulation.add([1] * 8, 1)
    simulation.run()
    assert again.prefix_hit == 4
    assert again.held == 9


def test_scoring_caps_the_prefix_hit() -> None:
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=400))
    simulation.add([1] * 20, 1)
    simulation.run()
    scoring = simulation.add([1] * 20, 1, score_from=10)
    simulation.run()
    assert scoring.prefix_hit == 8
    assert simulation.scores[scoring] == list(range(10, 20))


def test_a_long_prompt_does_not_hold_up_decoding() -> None:
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=400, max_step_tokens=8))
    simulation.add([1, 0, 0], 20)
    simulation.step()
    long = simulation.add([0] * 50, 1)
    simulation.step()
    assert simulation.trace[-2:] == [("r0", 3, 1), ("r1", 0, 7)]
    simulation.run()
    assert long in simulation.finished


def test_the_latest_arrival_is_preempted_and_comes_back_first() -> None:
    simulation = Simulation(EngineOptions(block_size=2, cache_tokens=24, prefix_cache=False))
    first, second, third = (simulation.add([index, 1, 1, 0], 14) for index in (0, 1, 0))
    while not third.preemptions:
        simulation.step()
    assert not first.preemptions and simulation.scheduler.waiting[0] is third
    simulation.run()
    assert simulation.finished == [first, second, third]


def test_a_short_request_does_not_wait_for_a_long_one_that_lacks_room() -> None:
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=40, max_step_tokens=32, prefix_cache=False))
    simulation.add([1] * 16, 20)
    simulation.step()
    long, short = simulation.add([0] * 30, 1), simulation.add([1, 1], 2)
    for _ in range(2):
        simulation.step()
    assert short in simulation.finished and long in simulation.scheduler.waiting
    simulation.run()
    assert long in simulation.finished


def test_a_request_that_lacks_room_is_not_passed_without_end() -> None:
    """Short requests arrive faster than they end, for as long as the test likes."""
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=64, max_step_tokens=32, prefix_cache=False))
    simulation.add([1] * 14, 40)
    simulation.step()
    long = simulation.add([0] * 50, 1)
    passed = 0
    while long not in simulation.finished:
        simulation.add([1, 0], 2)
        simulation.step()
        passed = max(passed, len(simulation.started_past.get(long, [])))
        assert len(simulation.trace) < 2000
    assert passed == MAX_PASSED


def test_only_the_next_few_may_pass() -> None:
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=40, max_step_tokens=32, prefix_cache=False))
    simulation.add([1] * 20, 12)
    simulation.step()
    for _ in range(1 + LOOK_PAST):
        simulation.add([0] * 36, 1)
    short = simulation.add([1, 1], 1)
    simulation.step()
    assert short in simulation.scheduler.waiting and short.admitted is None
    simulation.run()


def test_whoever_waits_for_a_prefix_does_not_hold_up_others() -> None:
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=400, max_step_tokens=32))
    first, same = simulation.add([1] * 41, 1), simulation.add([1] * 41, 1)
    stranger = simulation.add([0], 1)
    while first not in simulation.finished:
        simulation.step()
    assert stranger in simulation.finished and same in simulation.scheduler.waiting
    simulation.run()
    assert same.prefix_hit == 40


def test_whoever_passed_and_is_preempted_waits_behind_whom_it_passed() -> None:
    simulation = Simulation(EngineOptions(block_size=2, cache_tokens=24, max_step_tokens=32, prefix_cache=False))
    simulation.add([1] * 8, 15)
    simulation.step()
    long, passing = simulation.add([0] * 16, 1), simulation.add([1, 0], 12)
    while not passing.preemptions:
        simulation.step()
    assert simulation.scheduler.waiting == [long, passing]
    simulation.run()
    assert simulation.finished.index(long) < simulation.finished.index(passing)


def test_the_order_after_an_abort() -> None:
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=40, max_step_tokens=32, prefix_cache=False))
    running = simulation.add([1] * 16, 20)
    simulation.step()
    waiting = [simulation.add([0] * 28, 2) for _ in range(3)]
    simulation.remove(waiting[0])
    simulation.remove(running)
    simulation.step()
    assert simulation.scheduler.running == [waiting[1]] and simulation.scheduler.waiting == [waiting[2]]
    simulation.run()


def test_outgrowing_the_pool_ends_one_request_only() -> None:
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=16))
    greedy = simulation.add([1, 1], 50)
    modest = simulation.add([0, 1], 5)
    simulation.run()
    assert simulation.outgrown == [greedy] and greedy.held == 17
    assert simulation.finished == [modest]


def test_least_recently_used_goes_first_and_leaves_before_roots() -> None:
    pool = BlockPool(4)
    old, new = pool.take(2), pool.take(2)
    for name, blocks in (("old", old), ("new", new)):
        for index, block in enumerate(blocks):
            pool.publish(block, f"{name}{index}".encode())
    pool.release(old)
    pool.release(new)
    assert pool.lookup([b"old0", b"old1"]) == old
    assert pool.take(1) == [old[1]]
    assert pool.lookup([b"old0", b"old1"]) == old[:1]
    pool.share(pool.lookup([b"old0"]))
    assert pool.take(2) == [new[1], new[0]]
    assert pool.lookup([b"new0"]) == [] and not pool.fits((), 1)


def test_hashes_tell_apart_what_must_not_be_shared() -> None:
    roots = [root_hash(adapter) for adapter in (None, 1, 2)]
    chains = {chain_hash(root, tokens) for root in roots for tokens in ((1, 2), (2, 1), (1, 2, 3), (258,))}
    assert len(chains) == len(roots) * 4
    assert chain_hash(roots[0], [1, 2]) == chain_hash(roots[0], (1, 2))


def test_a_block_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []

    def counting(parent: bytes, tokens: list[int]) -> bytes:
        hashed.append(tuple(tokens))
        return chain_hash(parent, tokens)

    monkeypatch.setattr("landrace.engine.scheduler.chain_hash", counting)
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=400))
    simulation.add([1] * 32, 1)
    simulation.run()
    assert len(hashed) == 8
