"""When a process counts as hanging, and when its engine is given up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from landrace.server.engines.messages import Beat
from landrace.server.engines.watch import MOST_DEATHS, SILENT_SECONDS, WINDOW_SECONDS, Deaths, Watch

FACTS: Any = None
IDLE = Beat(progress=0, busy=False, facts=FACTS)
STEP = 100.0


def watched(beats: dict[int, Beat], seconds: int) -> Watch:
    """A process that beats at these seconds."""
    watch = Watch(0.0, STEP)
    for second in range(seconds + 1):
        if second in beats:
            watch.heard(beats[second])
        watch.tick(float(second))
    return watch


def test_one_that_beats_does_not_hang() -> None:
    idle = watched(dict.fromkeys(range(1000), IDLE), 999)
    steps = watched({second: Beat(second // 90, True, FACTS) for second in range(1000)}, 999)
    assert idle.hang is None and idle.late is None and steps.hang is None and steps.late is None


def test_silence_and_one_long_step() -> None:
    assert watched({0: IDLE}, 4).late is None
    silent = watched({0: IDLE}, int(SILENT_SECONDS) - 1)
    assert silent.late is not None and silent.hang is None
    assert "not heard of" in str(watched({0: IDLE}, int(SILENT_SECONDS) + 1).hang)
    stuck = watched({second: Beat(7, True, FACTS) for second in range(200)}, 99)
    assert stuck.hang is None and stuck.late is None
    assert "one step" in str(watched({second: Beat(7, True, FACTS) for second in range(200)}, 101).hang)


def test_time_in_which_nobody_watched_does_not_count() -> None:
    """A suspended terminal stops the watcher with the watched."""
    watch = Watch(0.0, STEP)
    watch.heard(replace(IDLE, busy=True))
    for second in (1, 2, 50_000, 50_001):
        watch.tick(float(second))
    assert watch.hang is None
    watch.heard(replace(IDLE, busy=True))
    assert watch.late is None and watch.standing < 10


@given(st.lists(st.floats(0.0, 300.0), max_size=40))
def test_too_many_deaths_in_a_window(gaps: list[float]) -> None:
    deaths, times, now = Deaths(), [], 1000.0
    for gap in gaps:
        now += gap
        times.append(now)
        recent = [time for time in times if time > now - WINDOW_SECONDS]
        assert deaths.note(now) == (len(recent) < MOST_DEATHS)
        assert deaths.pause == (0.0 if len(recent) == 1 else min(2.0 ** (len(recent) - 2), 30.0))
