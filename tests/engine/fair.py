"""Clients that compete, as scenarios over the simulated engine: what each is owed, counted in tokens and steps."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

from simulation import Bookkeeping, Simulation

from landrace.engine.options import EngineOptions

ROOMY = EngineOptions(block_size=4, cache_tokens=4000, max_step_tokens=32, max_running=8, prefix_cache=False)
ONE_BY_ONE = EngineOptions(block_size=4, cache_tokens=400, max_step_tokens=16, max_running=1, prefix_cache=False)


def drawn(draw: Random, n: int) -> list[int]:
    return [draw.randrange(2) for _ in range(n)]


def keep_busy(simulation: Simulation, draw: Random, steps: int, **clients: dict[str, Any]) -> None:
    """For so many steps each client has 12 requests that wait or run. `length` of prompts, `tokens` of answers."""
    for _ in range(steps):
        for name, how in clients.items():
            alive = [*simulation.scheduler.running, *simulation.scheduler.waiting]
            for _ in range(12 - sum(progress.request.client == name for progress in alive)):
                simulation.add(drawn(draw, how["length"]), how["tokens"], client=name, priority=how.get("priority", 0))
        simulation.step()


def gap(simulation: Simulation, share: int = 1) -> float:
    """By how many tokens the shares of a and b differ, a's being so many times as large."""
    return simulation.computed["a"] / share - simulation.computed["b"]


def one_behind_many(modules: Bookkeeping | None = None) -> None:
    """Whose one request comes last does not wait for another's hundreds, neither to start nor for its tokens."""
    simulation, draw = Simulation(ROOMY, modules=modules), Random(0)
    for _ in range(500):
        simulation.add(drawn(draw, 40), 30, client="a")
    for _ in range(60):
        simulation.step()
    assert len(simulation.scheduler.running) == ROOMY.most_running
    one, start = simulation.add(drawn(draw, 20), 5, client="b"), simulation.steps
    while one not in simulation.finished:
        simulation.step()
    assert simulation.first_token[one] - start <= 3 and simulation.pause[one] == 1
    assert not one.preemptions
    moved = sum(progress.preemptions for progress in simulation.arrivals)
    assert moved == 1, "the latest of a's made way, and nobody else"


def equal_shares(modules: Bookkeeping | None = None) -> None:
    """However many tokens a request has, and however many requests a client sends."""
    for options in (ROOMY, ONE_BY_ONE):
        for long, short in ((40, 6), (6, 40), (20, 20)):
            simulation, draw = Simulation(options, modules=modules), Random(long)
            keep_busy(simulation, draw, 20, a={"length": long, "tokens": 12}, b={"length": short, "tokens": 3})
            before = gap(simulation)
            keep_busy(simulation, draw, 150, a={"length": long, "tokens": 12}, b={"length": short, "tokens": 3})
            assert abs(gap(simulation) - before) <= 2 * max(options.max_step_tokens, 8 * (40 + 12))
            assert min(simulation.computed.values()) > 0.3 * 170 * options.max_step_tokens / 4


def shares_by_priority(modules: Bookkeeping | None = None) -> None:
    simulation, draw = Simulation(ONE_BY_ONE, modules=modules), Random(1)
    keep_busy(
        simulation,
        draw,
        300,
        a={"length": 10, "tokens": 2, "priority": 2},
        b={"length": 10, "tokens": 2, "priority": 0},
    )
    assert abs(gap(simulation, 3)) <= 40
    assert simulation.computed["b"] > 300


def parts_of_a_step(modules: Bookkeeping | None = None) -> None:
    """Prompts that run side by side: those of a client with many do not slow another's one down by more than one."""
    options = EngineOptions(block_size=4, cache_tokens=40000, max_step_tokens=40, max_running=8, prefix_cache=False)
    simulation, draw = Simulation(options, modules=modules), Random(2)
    for _ in range(7):
        simulation.add(drawn(draw, 2000), 1, client="a")
    simulation.step()
    simulation.add(drawn(draw, 1000), 1, client="b")
    for _ in range(40):
        simulation.step()
    assert abs(simulation.computed["a"] - 40 - simulation.computed["b"]) <= 2 * 40
    heavy = Simulation(options, modules=modules)
    for name, priority in (("a", 2), ("b", 0)):
        heavy.add(drawn(draw, 4000), 1, client=name, priority=priority)
    for _ in range(80):
        heavy.step()
    assert abs(gap(heavy, 3)) <= 2 * 40


def a_step_s_rest_is_for_all(modules: Bookkeeping | None = None) -> None:
    """A short prompt gets its part of a step in which the half belongs to another, and what it leaves is used."""
    options = EngineOptions(block_size=4, cache_tokens=40000, max_step_tokens=64, max_running=8, prefix_cache=False)
    simulation, draw = Simulation(options, modules=modules), Random(3)
    for name in ("a", "a", "a", "c"):
        simulation.add(drawn(draw, 2000), 1, client=name)
    for _ in range(4):
        simulation.step()
    short, start = simulation.add(drawn(draw, 10), 1, client="b"), simulation.steps
    simulation.step()
    assert simulation.first_token[short] - start == 1


def idling_earns_nothing(modules: Bookkeeping | None = None) -> None:
    simulation, draw = Simulation(ONE_BY_ONE, modules=modules), Random(4)
    how = {"length": 10, "tokens": 2}
    keep_busy(simulation, draw, 200, a=how)
    had = simulation.computed["a"]
    keep_busy(simulation, draw, 100, a=how, b=how)
    assert abs(simulation.computed["a"] - had - simulation.computed["b"]) <= 40, "b begins where a is"
    keep_busy(simulation, draw, 100, b=how)
    had, other = simulation.computed["a"], simulation.computed["b"]
    keep_busy(simulation, draw, 100, a=how, b=how)
    assert abs((simulation.computed["a"] - had) - (simulation.computed["b"] - other)) <= 40


def going_away_forgives_nothing(modules: Bookkeeping | None = None) -> None:
    """Whoever sends one request after another is not new every time."""
    simulation, draw = Simulation(ONE_BY_ONE, modules=modules), Random(5)
    how = {"length": 10, "tokens": 2}
    keep_busy(simulation, draw, 5, a=how)
    had = simulation.computed["a"]
    for _ in range(60):
        if not any(progress.request.client == "b" for progress in simulation.scheduler.running):
            waits = [progress for progress in simulation.scheduler.waiting if progress.request.client == "b"]
            if not waits:
                simulation.add(drawn(draw, 100), 1, client="b")
        keep_busy(simulation, draw, 1, a=how)
    assert abs(simulation.computed["a"] - had - simulation.computed["b"]) <= 2 * 110
    simulation.run()
    assert len(simulation.scheduler._clients._served) <= 2


def nobody_hides_another(modules: Bookkeeping | None = None) -> None:
    """More requests that lack room than are looked at in a step."""
    options = EngineOptions(block_size=4, cache_tokens=40, max_step_tokens=32, prefix_cache=False)
    simulation = Simulation(options, modules=modules)
    simulation.add([1] * 20, 3, client="a")
    simulation.step()
    for _ in range(200):
        simulation.add([0] * 36, 1, client="a")
    short = simulation.add([1, 1], 1, client="b")
    simulation.step()
    assert short in simulation.finished
    simulation.run()


def interactive_goes_first(modules: Bookkeeping | None = None) -> None:
    """Of the lanes below 0 each has what those above it leave: places, room and tokens."""
    simulation, draw = Simulation(ROOMY, modules=modules), Random(6)
    lanes: dict[int, list[Any]] = {-2: [], -1: [], 0: []}
    for lane, requests in lanes.items():
        for _ in range(ROOMY.most_running):
            requests.append(simulation.add(drawn(draw, 40), 20, client="a", priority=lane))
        for _ in range(2):
            simulation.step()
        assert {progress.request.priority for progress in simulation.scheduler.running} == {lane}
    simulation.run()
    last = {lane: max(simulation.finished.index(one) for one in requests) for lane, requests in lanes.items()}
    first = {lane: min(simulation.finished.index(one) for one in requests) for lane, requests in lanes.items()}
    assert last[0] < first[-1] and last[-1] < first[-2]
    assert not any(progress.preemptions for progress in lanes[0])


def batch_makes_room(modules: Bookkeeping | None = None) -> None:
    """An interactive request that lacks room takes that of as few of a lower lane as it needs."""
    options = EngineOptions(block_size=4, cache_tokens=200, max_step_tokens=64, prefix_cache=False)
    simulation, draw = Simulation(options, modules=modules), Random(7)
    batch = [simulation.add(drawn(draw, 36), 8, client="a", priority=-1) for _ in range(4)]
    for _ in range(4):
        simulation.step()
    assert len(simulation.scheduler.running) == 4
    urgent = simulation.add(drawn(draw, 60), 2, client="a")
    simulation.step()
    assert urgent in simulation.scheduler.running and sum(progress.preemptions for progress in batch) == 1
    assert batch[-1].preemptions == 1, "the latest"
    huge = simulation.add(drawn(draw, 190), 1, client="a")
    simulation.step()
    assert huge in simulation.scheduler.waiting, "not even all of the batch would be enough beside the first"
    assert sum(progress.preemptions for progress in batch) == 1, "so nobody makes way in vain"
    simulation.run()
    assert simulation.finished.index(huge) < simulation.finished.index(batch[-1])


def no_prefix_of_a_lower_lane(modules: Bookkeeping | None = None) -> None:
    """Nobody waits for a prefix that somebody behind it computes."""
    simulation, draw = Simulation(replace(ROOMY, prefix_cache=True), modules=modules), Random(8)
    shared = drawn(draw, 400)
    slow = simulation.add([*shared, 1], 1, client="a", priority=-1)
    simulation.step()
    for _ in range(6):
        simulation.add(drawn(draw, 600), 1, client="c")
    urgent = simulation.add([*shared, 0], 1, client="b")
    simulation.step()
    assert urgent in simulation.scheduler.running
    simulation.run()
    assert simulation.finished.index(urgent) < simulation.finished.index(slow)


def own_requests_by_priority(modules: Bookkeeping | None = None) -> None:
    simulation, draw = Simulation(ONE_BY_ONE, modules=modules), Random(9)
    ordinary = [simulation.add(drawn(draw, 10), 2, client="a") for _ in range(3)]
    urgent = simulation.add(drawn(draw, 10), 2, client="a", priority=5)
    simulation.run()
    assert simulation.finished == [urgent, *ordinary]


def places_that_are_free_at_once(modules: Bookkeeping | None = None) -> None:
    """They go to clients in turn, and to whom less is still to be computed for."""
    simulation, draw = Simulation(ROOMY, modules=modules), Random(10)
    for client, count in (("a", 20), ("b", 3)):
        for _ in range(count):
            simulation.add(drawn(draw, 10), 30, client=client)
    simulation.step()
    assert Counter(one.request.client for one in simulation.scheduler.running) == {"a": 5, "b": 3}
    busy = Simulation(replace(ROOMY, max_running=3), modules=modules)
    busy.add(drawn(draw, 1000), 1, client="a")
    busy.step()
    for client in "aabb":
        busy.add(drawn(draw, 10), 30, client=client)
    busy.step()
    assert Counter(one.request.client for one in busy.scheduler.running) == {"a": 1, "b": 2}


def a_place_that_is_free_goes_to_the_highest_lane(modules: Bookkeeping | None = None) -> None:
    simulation, draw = Simulation(ONE_BY_ONE, modules=modules), Random(11)
    batch = simulation.add(drawn(draw, 10), 2, client="a", priority=-1)
    urgent = simulation.add(drawn(draw, 10), 2, client="b")
    simulation.run()
    assert simulation.finished == [urgent, batch] and not batch.preemptions


def streams_count_while_they_run(modules: Bookkeeping | None = None) -> None:
    """Where nothing has started for long, a newcomer still begins where the others are."""
    simulation, draw = Simulation(replace(ROOMY, max_running=5), modules=modules), Random(12)
    for _ in range(3):
        simulation.add(drawn(draw, 10), 600, client="a")
    for _ in range(400):
        simulation.step()
    had = simulation.computed["a"]
    simulation.add(drawn(draw, 600), 1, client="b")
    simulation.add(drawn(draw, 600), 1, client="a")
    for _ in range(20):
        simulation.step()
    assert simulation.computed["b"] < 1.5 * (simulation.computed["a"] - had)


def parts_of_those_who_want_more_than_theirs(modules: Bookkeeping | None = None) -> None:
    options = replace(ROOMY, cache_tokens=40000, max_step_tokens=64)
    simulation, draw = Simulation(options, modules=modules), Random(13)
    for client, length in (("c", 2000), ("b", 40), ("d", 45)):
        simulation.add(drawn(draw, length), 1, client=client)
    simulation.step()
    assert min(simulation.computed[client] for client in "bd") >= 10


def those_who_are_gone_are_forgotten(modules: Bookkeeping | None = None) -> None:
    simulation, draw = Simulation(ROOMY, modules=modules), Random(14)
    for number in range(50):
        simulation.add(drawn(draw, 5), 1, client=f"client {number}")
        simulation.run()
    assert len(simulation.scheduler._clients._served) <= 2


SCENARIOS = (
    places_that_are_free_at_once,
    a_place_that_is_free_goes_to_the_highest_lane,
    streams_count_while_they_run,
    parts_of_those_who_want_more_than_theirs,
    those_who_are_gone_are_forgotten,
    one_behind_many,
    equal_shares,
    shares_by_priority,
    parts_of_a_step,
    a_step_s_rest_is_for_all,
    idling_earns_nothing,
    going_away_forgives_nothing,
    nobody_hides_another,
    interactive_goes_first,
    batch_makes_room,
    no_prefix_of_a_lower_lane,
    own_requests_by_priority,
)
