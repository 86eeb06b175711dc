"""Whose a request is, how urgent, and until when: what changes no token of it, and what ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from recital import check_all_free, greedy

from landrace.engine import Engine, EngineOptions, Request, SamplingParams
from landrace.errors import DeadlineError, OptionError

CROWDED = EngineOptions(block_size=4, cache_tokens=56, max_step_tokens=24, max_running=4)


def requests_of(seed: int) -> list[Request]:
    draw = Random(seed)
    found = []
    for n in range(14):
        prompt = tuple(draw.randrange(60) for _ in range(draw.randrange(1, 30)))
        temperature = draw.choice((0.0, 1.0))
        params = SamplingParams(max_tokens=draw.randrange(1, 20), temperature=temperature, seed=n, ignore_eos=True)
        found.append(Request(f"r{n}", prompt, params))
    return found


@pytest.mark.parametrize("stall", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_an_answer_is_the_same_whoever_asks(tiny_decoder: Callable, tokenizer: Any, seed: int, stall: int) -> None:
    """Pre-empted for another client or lane, cut into other chunks to keep time, or let alone."""
    requests = requests_of(seed)
    alone = [Engine(tiny_decoder(), tokenizer).generate([request])[0] for request in requests]
    draw = Random(seed)
    others = [
        replace(request, client=draw.choice("abc"), priority=draw.choice((-2, -1, 0, 0, 2))) for request in requests
    ]
    engine = Engine(tiny_decoder(), tokenizer, replace(CROWDED, stall_milliseconds=stall))
    together = engine.generate(others)
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert engine.facts.preemptions > 0
    check_all_free(engine)


def test_a_request_whose_time_is_up_ends(
    tiny_decoder: Callable, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running or waiting; the others go on."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    engine = Engine(tiny_decoder(), tokenizer, EngineOptions(max_running=2))
    for name, deadline in (("runs", 105.0), ("stays", None), ("waits", 103.0), ("waits on", 200.0)):
        engine.add(Request(name, (1, 2, 3), greedy(max_tokens=6, ignore_eos=True), deadline=deadline))
    ended = {}
    while engine.has_work:
        for output in engine.step():
            if output.finish_reason is not None:
                ended[output.request_id] = (output.finish_reason, now)
                assert isinstance(output.error, DeadlineError) == (output.finish_reason == "error")
                assert output.request_id != "runs" or output.machine_seconds > 0
        now += 2
    assert ended["runs"] == ("error", 106.0) and ended["waits"] == ("error", 104.0)
    assert ended["stays"][0] == ended["waits on"][0] == "length"
    check_all_free(engine)


def test_one_that_comes_too_late_never_starts(tiny_decoder: Callable, tokenizer: Any) -> None:
    engine = Engine(tiny_decoder(), tokenizer)
    result = engine.generate([Request("late", (1, 2), greedy(), deadline=time.monotonic())])[0]
    assert isinstance(result.error, DeadlineError) and result.token_ids == ()
    assert engine.facts.steps == 0 and not engine.has_work


def test_a_stall_is_a_whole_number() -> None:
    for value in (-1, 0.5, True):
        with pytest.raises(OptionError, match="stall_milliseconds"):
            EngineOptions(stall_milliseconds=value)  # type: ignore[arg-type]
