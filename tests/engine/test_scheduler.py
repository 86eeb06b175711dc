"""The bookkeeping against a simulated cache: see `simulation`."""

from __future__ import annotations

from random import Random

import pytest
from compressions import Every
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import KINDS, Simulation, crowd, kinds_of

from landrace.engine.cache.pool import BlockPool, chain_hash, root_hash
from landrace.engine.options import EngineOptions
from landrace.engine.scheduler import LOOK_AT, MAX_PASSED
from landrace.kernels.mask import FULL, Chunked, Sliding

prompts = st.lists(st.integers(0, 1), min_size=1, max_size=14)
actions = st.one_of(
    st.tuples(
        st.just("add"),
        prompts,
        st.integers(1, 12),
        st.sampled_from([b"r", b"other"]),
        st.integers(0, 20),
        st.sampled_from(["", "a", "b"]),
        st.integers(-2, 2),
    ),
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
models = st.builds(lambda seed, kind: kinds_of(Random(seed))[kind], st.integers(0, 99), st.sampled_from(KINDS))


@settings(max_examples=300)
@given(options, models, st.lists(actions, max_size=60))
def test_random_workloads(options: EngineOptions, masks: tuple, actions: list[tuple]) -> None:
    simulation = Simulation(options, masks)
    aborted = []
    for action in actions:
        if action[0] == "add":
            _, prompt, max_tokens, root, score_from, client, priority = action
            if len(prompt) < options.cache_room:
                score_from = score_from if 1 <= score_from < len(prompt) else None
                simulation.add(prompt, max_tokens, score_from, root, client=client, priority=priority)
        elif action[0] == "step":
            simulation.step()
        else:
            alive = [*simulation.scheduler.running, *simulation.scheduler.waiting]
            if alive:
                aborted.append(alive[action[1] % len(alive)])
                simulation.remove(aborted[-1])
    simulation.check_to_the_end(aborted)


@pytest.mark.parametrize("kind", KINDS)
def test_crowded_pools(kind: str) -> None:
    """Long random runs in which pre-emption, prefix hits and eviction certainly happen."""
    crowds = [crowd(kind, seed) for seed in range(10)]
    arrivals = [progress for simulation in crowds for progress in simulation.arrivals]
    assert sum(progress.preemptions for progress in arrivals) > 0 or kind == "states alone", "whose room never runs out"
    assert sum(progress.prefix_hit or 0 for progress in arrivals) > 0


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
    assert [progress.prefix_hit for progress in requests] == [0] + [16] * 5
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
    chains |= {chain_hash(root, (1, 2), extra) for root in roots for extra in (b"one picture", b"another")}
    assert len(chains) == len(roots) * 6
    assert chain_hash(roots[0], [1, 2]) == chain_hash(roots[0], (1, 2))


def test_a_block_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []

    def counting(parent: bytes, tokens: list[int], extra: bytes) -> bytes:
        hashed.append(tuple(tokens))
        return chain_hash(parent, tokens, extra)

    monkeypatch.setattr("landrace.engine.progress.chain_hash", counting)
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=400))
    simulation.add([1] * 32, 1)
    simulation.run()
    assert len(hashed) == 8


def test_equal_tokens_with_other_things_behind_them_share_nothing() -> None:
    """Two pictures have the same placeholder tokens."""
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=400))
    picture = {1: b"one"}
    for extras, hit in ((picture, 0), (picture, 16), ({1: b"another"}, 4), ({1: b"another"}, 16), ({}, 4)):
        progress = simulation.add([1] * 20, 1, extras=extras)
        simulation.run()
        assert progress.prefix_hit == hit


def test_a_request_that_lacks_room_is_not_passed_without_end() -> None:
    """Short requests that hold on for long arrive faster than they end, for as long as the test likes."""
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=64, max_step_tokens=32, prefix_cache=False))
    simulation.add([1] * 6, 20)
    simulation.step()
    long = simulation.add([0] * 60, 1)
    while long not in simulation.finished:
        simulation.add([1, 0], 20)
        simulation.step()
        assert simulation.steps < 500
    assert len(simulation.started_past[long]) == MAX_PASSED


def test_those_who_leave_room_for_it_pass_for_as_long_as_it_waits() -> None:
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=64, max_step_tokens=32, prefix_cache=False))
    first = simulation.add([1] * 14, 40)
    simulation.step()
    long = simulation.add([0] * 48, 1)
    while long not in simulation.finished:
        short = simulation.add([1, 0], 1)
        simulation.step()
        assert short in simulation.finished or first in simulation.finished
    assert len(simulation.started_past[long]) > MAX_PASSED
    assert not long.preemptions


def test_a_long_queue_is_looked_at_in_part() -> None:
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=40, max_step_tokens=32, prefix_cache=False))
    simulation.add([1] * 20, 3)
    simulation.step()
    for _ in range(LOOK_AT):
        simulation.add([0] * 36, 1)
    short = simulation.add([1, 1], 1)
    simulation.step()
    assert short in simulation.scheduler.waiting
    simulation.run()


def test_whoever_lacks_room_or_waits_for_a_prefix_holds_up_nobody() -> None:
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=240, max_step_tokens=16))
    first = simulation.add([1] * 161, 1)
    simulation.step()
    for _ in range(20):
        simulation.add([1] * 161, 1)
        simulation.add([0] * 230, 1)
    short = simulation.add([0, 1], 1)
    simulation.step()
    assert short in simulation.finished and first not in simulation.finished
    simulation.run()


LONG = 7000
SERVED = EngineOptions(cache_tokens=65536, max_step_tokens=512)


def steps_to_first_token(simulation: Simulation, prompt: list[int]) -> int:
    progress = simulation.add(prompt, 1)
    start = simulation.steps
    while progress not in simulation.first_token:
        simulation.step()
    return simulation.first_token[progress] - start


@pytest.mark.parametrize("options", [SERVED, EngineOptions(cache_tokens=16384, max_step_tokens=512)])
@pytest.mark.parametrize("length", [1, 40, 250, 512])
def test_a_short_prompt_does_not_wait_for_long_ones(length: int, options: EngineOptions) -> None:
    draw = Random(length)

    def random_prompt(n: int) -> list[int]:
        return [draw.randrange(2) for _ in range(n)]

    short = random_prompt(length)
    idle = steps_to_first_token(Simulation(options), short)
    simulation = Simulation(options)
    streams = [simulation.add(random_prompt(20), 300) for _ in range(8)]
    for _ in range(2):
        simulation.step()
    long = [simulation.add(random_prompt(LONG), 1) for _ in range(3)]
    for _ in range(3):
        simulation.step()
    assert steps_to_first_token(simulation, short) <= idle + 5
    while not all(progress in simulation.first_token for progress in long):
        simulation.step()
    assert max(simulation.pause[stream] for stream in streams) == 1


def test_long_prompts_end_one_after_another_whatever_else_arrives() -> None:
    """The first gets at least half of each step, so short ones that keep arriving cost it no more than that."""
    draw = Random(0)
    simulation = Simulation(SERVED)
    long = [simulation.add([draw.randrange(2) for _ in range(2048)], 1) for _ in range(3)]
    while not all(progress in simulation.first_token for progress in long):
        for _ in range(4):
            simulation.add([draw.randrange(2) for _ in range(100)], 1)
        simulation.step()
    ends = [simulation.first_token[progress] for progress in long]
    assert ends == sorted(ends) and ends[-1] <= 3 * 2048 // 256 + 3


@settings(max_examples=200)
@given(options, models, st.integers(1, 60))
def test_whatever_fits_alone_comes_to_its_end_alone(options: EngineOptions, masks: tuple, length: int) -> None:
    """The guarantee that the scheduler rests on: no request outgrows the cache before it is as long as a sequence
    gets."""
    simulation = Simulation(options, masks)
    progress = simulation.add([1] * min(length, options.cache_room - 1), options.cache_room)
    simulation.check_to_the_end()
    assert progress.held == options.cache_room and not progress.preemptions


@pytest.mark.parametrize("seed", range(30))
def test_a_window_has_room_for_all_who_run(seed: int) -> None:
    """Where a window's pool is smaller than `cache_tokens`, nobody is pre-empted on its account."""
    draw = Random(seed)
    mask = draw.choice((Sliding(1), Sliding(4), Sliding(9), Chunked(6)))
    most = draw.randrange(1, 6)
    options = EngineOptions(draw.randrange(1, 6), 400, most + draw.choice((0, 1, 7, 40)), most)
    simulation = Simulation(options, (FULL, mask))
    assert simulation.pages[1].group.pool.n_blocks < options.n_blocks
    for _ in range(20):
        simulation.add([draw.randrange(2) for _ in range(draw.randrange(1, 50))], draw.randrange(1, 20))
        simulation.step()
    simulation.check_to_the_end()
    assert not any(progress.preemptions for progress in simulation.arrivals)


def test_a_prefix_is_found_where_every_group_can_go_on() -> None:
    """A window needs the last tokens only, and those are still there."""
    compressed = (Sliding(5), Every(3), Every(9))
    for masks, hit in (((FULL, Sliding(5)), 16), ((Chunked(8), Sliding(5)), 16), ((Sliding(9),), 16), (compressed, 16)):
        simulation = Simulation(EngineOptions(block_size=4, cache_tokens=400), masks)
        simulation.add([1, 0, 1] * 6, 1)
        simulation.run()
        again = simulation.add([1, 0, 1] * 6, 1)
        simulation.run()
        assert again.prefix_hit == hit


def test_a_prefix_whose_window_was_given_to_others_is_shortened_or_lost() -> None:
    simulation = Simulation(EngineOptions(block_size=4, cache_tokens=400), (FULL, Sliding(6)))
    simulation.add([1] * 21, 1)
    simulation.run()
    window = simulation.pages[1].group.pool
    assert simulation.cache.usable(simulation.arrivals[0].hashes, 20) == 20
    window.withdraw(simulation.arrivals[0].hashes[3])
    assert simulation.cache.usable(simulation.arrivals[0].hashes, 20) == 12
    window.withdraw(simulation.arrivals[0].hashes[1])
    assert simulation.cache.usable(simulation.arrivals[0].hashes, 20) == 4
