"""What the operator's page is told of the last minutes, against numbers that are known."""

from __future__ import annotations

import numpy as np
import pytest

from landrace.engine.facts import CacheFacts, EngineFacts
from landrace.ledger import Usage
from landrace.server.admin.recent import WINDOW_SECONDS, Recent, percentiles
from landrace.server.admin.throughput import Throughput
from landrace.server.usage import UsageLog


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def answer(first: float | None = 0.5, tokens: int = 5, whole: float = 2.5, reason: str = "stop") -> Usage:
    return Usage("r", "m", 3, 0, tokens, 0.1, first, whole, reason, machine_seconds=3600.0)


def facts(prompt: int, generated: int, running: int = 0, waiting: int = 0) -> EngineFacts:
    return EngineFacts(running, waiting, (CacheFacts("all", 8, 0, 0),), 0, 0.0, prompt, generated, 0, 0, 0, 0)


@pytest.mark.parametrize("count", [1, 2, 9, 10, 99, 100, 101, 1000])
def test_percentiles_are_numpys(count: int) -> None:
    values = np.random.default_rng(count).random(count)
    told = percentiles([None, *values.tolist(), None])
    for name, value in told.items():
        assert value == np.percentile(values, int(name[1:]), method="inverted_cdf")


def test_nothing_measured_has_no_percentiles() -> None:
    assert percentiles([None]) == {"p50": None, "p90": None, "p99": None}


def test_answers_leave_the_window_but_stay_counted() -> None:
    clock = Clock()
    recent = Recent(clock)
    recent.heard([answer(), answer(None, 0, 0.2, "error"), answer(tokens=1)])
    told = recent.latency()
    assert told["answers"] == 3
    assert told["first_token"]["p50"] == 0.5
    assert told["token"] == {"p50": 0.5, "p90": 0.5, "p99": 0.5}, "only one has a second token"
    assert [one["p50"] for one in recent.first_tokens()][-1] == 0.5
    clock.now += WINDOW_SECONDS + 1
    recent.heard([answer(first=0.25)])
    assert recent.latency()["first_token"]["p99"] == 0.25
    assert recent.ends == {"stop": 3, "error": 1}
    series = recent.first_tokens()
    assert len(series) == 30 and [one["seconds_ago"] for one in series][::29] == [290, 0]
    assert [one["p50"] for one in series] == [None] * 29 + [0.25]


def test_tokens_a_second_bear_a_new_engine() -> None:
    clock, throughput = Clock(), None
    throughput = Throughput(clock)
    assert throughput.last_minute() == {"prompt": 0.0, "generated": 0.0}
    throughput.sample({"a": facts(1000, 500)})
    clock.now += 2
    throughput.sample({"a": facts(1100, 520, running=3, waiting=1), "b": facts(70, 7)})
    clock.now += 2
    throughput.sample({"a": facts(10, 2), "b": facts(80, 9)})  # a's process was replaced
    assert throughput.last_minute() == {"prompt": (100 + 10 + 10) / 4, "generated": (20 + 2 + 2) / 4}
    first, second = throughput.history()
    assert first == {"seconds_ago": 2.0, "prompt": 50.0, "generated": 10.0, "running": 3, "waiting": 1}
    assert (second["prompt"], second["generated"]) == (10.0, 2.0)
    clock.now += 600
    assert throughput.last_minute() == {"prompt": 0.0, "generated": 0.0}


def test_every_row_is_heard_with_its_cost_even_without_a_ledger() -> None:
    log = UsageLog(None, name="", command="", config={}, price_per_hour=2.0)
    heard: list[Usage] = []
    log.listeners.append(heard.extend)
    log.put([answer()])
    log.put([])
    assert [row.cost for row in heard] == [2]
