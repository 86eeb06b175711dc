"""Deadlines, priorities and clients over HTTP and at an engine's process; short calls behind long ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from driven_engines import ENDLESS, GREEDY, running
from patience import SECONDS, wait_until

from landrace.engine import Request, StepOutput
from landrace.errors import DeadlineError, RequestError
from landrace.server.engines.pending import Pending
from landrace.server.engines.process import EngineBusyError

ENDLESSLY: Any = {"ignore_eos": True}


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> str:
    return str(tiny_model)


@pytest.fixture(scope="module")
def narrow(start_server: Callable[..., Any], base: str) -> Any:
    """Runs one request at a time."""
    return start_server(base, "--max-running", "1", "--cache-tokens", "131072", "--max-pending", "8")


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_ends_when_its_time_is_up(narrow: Any, base: str, stream: bool) -> None:
    body = {"model": base, "prompt": [5, 6], "max_tokens": 100_000, "ignore_eos": True, "stream": stream}
    reply = narrow.post("/v1/completions", {**body, "timeout_seconds": 0.2})
    if stream and reply.status_code == 200:
        last = [line for line in reply.text.splitlines() if line.startswith("data: {")][-1]
        assert '"deadline_exceeded"' in last
    else:
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_a_call_that_waits_ends_too(narrow: Any, base: str) -> None:
    with narrow.http.stream(
        "POST",
        f"{narrow.url}/v1/completions",
        json={"model": base, "prompt": [5, 6], "max_tokens": 100_000, "ignore_eos": True, "stream": True},
    ) as busy:
        lines = busy.iter_lines()
        next(lines)
        messages = [{"role": "user", "content": "Hello"}]
        reply = narrow.post("/v1/chat/completions", {"model": base, "messages": messages, "timeout_seconds": 0.1})
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert any(next(lines).startswith("data: {") for _ in range(4)), "and disturbs nobody"


def test_time_that_is_enough_changes_nothing(narrow: Any, base: str) -> None:
    body = {"model": base, "prompt": [5, 6, 7], "max_tokens": 6, "temperature": 0}
    plain = narrow.post("/v1/completions", body).json()
    for more in ({"timeout_seconds": SECONDS}, {"priority": 3}, {"timeout_seconds": None, "priority": None}):
        assert narrow.post("/v1/completions", {**body, **more}).json()["choices"] == plain["choices"]


@pytest.mark.parametrize(("field", "value"), [("timeout_seconds", 0), ("timeout_seconds", "1"), ("priority", -1)])
def test_other_values_are_refused_by_name(narrow: Any, base: str, field: str, value: Any) -> None:
    reply = narrow.post("/v1/completions", {"model": base, "prompt": [5], field: value})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)


def test_a_call_of_lower_priority_runs_in_what_others_leave(narrow: Any, base: str) -> None:
    """It has begun, makes way for another, and goes on with the same tokens."""
    body = {"model": base, "prompt": [7, 8, 9], "max_tokens": 300, "temperature": 0, "ignore_eos": True}
    alone = narrow.post("/v1/completions", body).json()["choices"][0]["text"]
    with narrow.http.stream(
        "POST", f"{narrow.url}/v1/completions", json={**body, "priority": 1, "stream": True}
    ) as lower:
        lines = lower.iter_lines()
        first = next(lines)
        reply = narrow.client.completions.create(model=base, prompt=[1, 2], max_tokens=4, extra_body=ENDLESSLY)
        assert reply.usage.completion_tokens == 4
        text = "".join(
            json.loads(line[6:])["choices"][0]["text"] for line in (first, *lines) if line.startswith("data: {")
        )
    assert text == alone


def test_a_short_call_behind_long_ones_takes_few_steps(tiny_model: Path) -> None:
    """In steps: as many as there are tokens of streams meanwhile."""

    async def talk() -> None:
        async with running(tiny_model) as engine:
            stream = engine.submit([Request("stream", (1, 2, 3), ENDLESS, client="a")])
            await asyncio.wait_for(stream.get(), SECONDS)
            longs = [Request(f"long {n}", tuple(range(n, n + 200)) * 35, GREEDY, client="a") for n in range(3)]
            ends = engine.submit(longs)
            for _ in range(4):
                await asyncio.wait_for(stream.get(), SECONDS)
            while not stream.empty():
                stream.get_nowait()
            short = engine.submit([Request("short", (4, 5, 6), GREEDY, client="b")])
            await asyncio.wait_for(short.get(), SECONDS)
            steps = stream.qsize()
            assert steps <= 8, "5 more than on an idle engine, and those that were on their way"
            assert ends.empty(), "the long ones are not done"
            engine.release(["stream", "short", *(one.id for one in longs)], abort=["stream", "short"])

    asyncio.run(talk())


def test_a_deadline_that_has_passed_ends_a_request_at_once(tiny_model: Path) -> None:
    async def talk() -> StepOutput:
        async with running(tiny_model) as engine:
            events = engine.submit([Request("late", (1, 2, 3), GREEDY, deadline=0.0)])
            event = await asyncio.wait_for(events.get(), SECONDS)
            engine.release(["late"], abort=[])
            assert isinstance(event, StepOutput)
            return event

    output = asyncio.run(talk())
    assert output.finish_reason == "error" and isinstance(output.error, DeadlineError)


def requests(client: str, n: int, first: int = 0) -> list[Request]:
    return [Request(f"{client} {index}", (1,), GREEDY, client=client) for index in range(first, first + n)]


def take(pending: Pending, client: str, n: int, first: int = 0) -> bool:
    own = requests(client, n, first)
    if pending.refusal(own) is not None:
        return False
    for request in own:
        pending.add(request)
    return True


def test_no_client_fills_the_queue() -> None:
    pending = Pending(12)
    assert sum(take(pending, "a", 1, n) for n in range(20)) == 6, "one alone has half"
    assert sum(take(pending, "b", 1, n) for n in range(20)) == 3, "and leaves room for others"
    assert take(pending, "c", 1)
    for n in range(6):
        pending.remove(f"a {n}")
    assert sum(take(pending, "b", 1, n) for n in range(3, 20)) == 2
    with pytest.raises(RequestError, match="6 of one client"):
        pending.refusal(requests("d", 7))


def test_without_names_the_queue_is_one() -> None:
    pending = Pending(4)
    assert take(pending, "", 4) and not take(pending, "", 1, 4) and not take(pending, "a", 1)
    pending.remove(" 0")
    assert take(pending, "", 1, 5)


def test_a_client_with_too_many_is_told_so(tiny_model: Path) -> None:
    async def talk() -> None:
        async with running(tiny_model) as engine:
            own = [Request(f"a{n}", (1, 2), ENDLESS, client="a") for n in range(32)]
            engine.submit(own)
            with pytest.raises(EngineBusyError, match="of this client"):
                engine.submit([Request("more", (1, 2), GREEDY, client="a")])
            events = engine.submit([Request("other", (1, 2), GREEDY, client="b")])
            await asyncio.wait_for(events.get(), SECONDS)
            engine.release(["other", *(one.id for one in own)], abort=["other", *(one.id for one in own)])
            assert engine.unfinished == 0
            events = engine.submit([Request("again", (1, 2), GREEDY, client="a")])
            await asyncio.wait_for(events.get(), SECONDS)
            engine.release(["again"], abort=["again"])

    asyncio.run(talk())


def test_past_the_bound_of_all_a_call_gets_429(narrow: Any, base: str) -> None:
    def answered() -> bool:
        """False: as many wait as may."""
        try:
            return narrow.client.completions.create(model=base, prompt=[5], max_tokens=1, n=8).usage is not None
        except openai.RateLimitError:
            return False

    wait_until(answered)  # what earlier calls have left is gone
    body = {"model": base, "prompt": [5], "max_tokens": 100_000, "ignore_eos": True, "n": 8, "stream": True}
    with narrow.http.stream("POST", f"{narrow.url}/v1/completions", json=body) as reply:
        lines = reply.iter_lines()
        next(lines)
        assert reply.status_code == 200 and not answered()
    wait_until(answered)
