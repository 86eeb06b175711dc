"""Clients, priorities and steps that keep time: see `fair` and `simulation`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from fair import SCENARIOS
from simulation import Simulation

from landrace.engine.options import EngineOptions
from landrace.engine.pace import MIN_TOKENS, Pace


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_what_clients_are_owed(scenario: Callable[[], None]) -> None:
    scenario()


LONG = 7000
TIMED = EngineOptions(cache_tokens=65536, max_step_tokens=512, stall_milliseconds=100)


class Machine:
    """Takes as long as one core takes for SmolLM2-135M, `slow` times."""

    def __init__(self, slow: float = 1.0) -> None:
        self.slow = slow

    def __call__(self, streams: int, chunks: Sequence[tuple[int, int]]) -> float:
        prompts = sum((end - first) * (5e-4 + 4.1e-7 * (first + end) / 2) for first, end in chunks)
        return self.slow * (0.006 + 0.0006 * streams + prompts)


def drawn(draw: Random, n: int) -> list[int]:
    return [draw.randrange(2) for _ in range(n)]


def with_streams(options: EngineOptions, machine: Machine, n: int = 8) -> tuple[Simulation, list[Any]]:
    simulation, draw = Simulation(options, clock=machine), Random(0)
    streams = [simulation.add(drawn(draw, 20), 3000) for _ in range(n)]
    for _ in range(10):
        simulation.step()
    return simulation, streams


def run_until_first_token(simulation: Simulation, *requests: Any) -> int:
    """Steps until then."""
    start = simulation.steps
    while not all(progress in simulation.first_token for progress in requests):
        simulation.step()
    return simulation.steps - start


@pytest.mark.parametrize("slow", [0.2, 1.0, 3.0])
def test_streams_go_on_in_time_beside_a_long_prompt(slow: float) -> None:
    simulation, streams = with_streams(TIMED, Machine(slow))
    run_until_first_token(simulation, simulation.add(drawn(Random(1), LONG), 1))
    late = [seconds for seconds in simulation.seconds[14:] if seconds > 0.13]
    assert len(late) <= 3 and max(simulation.seconds[14:]) < 0.2
    assert max(simulation.pause[stream] for stream in streams) == 1
    seconds = sum(simulation.seconds)
    untimed, _ = with_streams(replace(TIMED, stall_milliseconds=0), Machine(slow))
    run_until_first_token(untimed, untimed.add(drawn(Random(1), LONG), 1))
    assert max(untimed.seconds) > 1.4 * slow, "what it is about"
    assert seconds < sum(untimed.seconds) * (1 + 1.5 * 0.0108 * slow / 0.1), "the streams' own rows, and little else"


def test_where_no_stream_runs_steps_are_as_large_as_they_may_be() -> None:
    simulation = Simulation(TIMED, clock=Machine())
    assert run_until_first_token(simulation, simulation.add(drawn(Random(1), LONG), 1)) == -(-LONG // 512)
    simulation.add(drawn(Random(2), 10), 1000, priority=-1)
    for _ in range(4):
        simulation.step()
    steps = run_until_first_token(simulation, simulation.add(drawn(Random(3), LONG), 1, priority=-1))
    assert steps == -(-LONG // 511), "and a stream of a lower lane is in no hurry"


@pytest.mark.parametrize("length", [1, 40, 250])
def test_a_short_prompt_behind_long_ones_in_time(length: int) -> None:
    """Its tokens are cheap, so it gets more of them into its part of a step than the long ones' last."""
    draw = Random(length)
    idle, _ = with_streams(TIMED, Machine())
    alone = run_until_first_token(idle, idle.add(drawn(draw, length), 1))
    for wait in (3, 40, 100):
        simulation, streams = with_streams(TIMED, Machine())
        for _ in range(3):
            simulation.add(drawn(draw, LONG), 1)
        for _ in range(wait):
            simulation.step()
        assert run_until_first_token(simulation, simulation.add(drawn(draw, length), 1)) <= alone + 5
        assert max(simulation.pause[stream] for stream in streams) == 1


def test_prompts_have_half_the_time_where_streams_alone_take_longer() -> None:
    """A large model, which reads its weights for longer than a step should take."""

    def large(streams: int, chunks: Sequence[tuple[int, int]]) -> float:
        return 0.3 + 0.01 * sum(end - first for first, end in chunks)

    simulation = Simulation(TIMED, clock=large)
    simulation.add([1] * 5, 1000)
    for _ in range(5):
        simulation.step()
    steps = run_until_first_token(simulation, simulation.add(drawn(Random(1), 1200), 1))
    assert max(simulation.seconds[15:]) < 0.7
    assert steps < 1200 // 25


def test_a_step_always_has_room_for_some_tokens_of_prompts() -> None:
    simulation, _ = with_streams(TIMED, Machine(40.0))
    assert run_until_first_token(simulation, simulation.add(drawn(Random(1), 400), 1)) <= -(-400 // MIN_TOKENS)


def test_it_keeps_up_with_a_machine_that_changes() -> None:
    machine = Machine()
    simulation, _ = with_streams(TIMED, machine)
    simulation.add(drawn(Random(1), LONG), 1)
    for slow in (3.0, 1.0, 0.3):
        for _ in range(20):
            simulation.step()
        machine.slow, before = slow, simulation.steps
        for _ in range(20):
            simulation.step()
        assert all(seconds < 0.14 for seconds in simulation.seconds[before + 5 :])
        assert simulation.seconds[-1] > 0.08


def test_one_step_says_nothing_of_positions() -> None:
    pace = Pace(0.1)
    pace.note(1, [], 0.01)
    assert pace.prices(1, 100)(0) == 1.0
    pace.note(1, [(0, 100)], 0.31)
    assert pace.prices(1, 100)(0) == pace.prices(1, 100)(5000) == pytest.approx(100 * 0.003 / 0.09)
    assert pace.prices(0, 100)(0) == 1.0
