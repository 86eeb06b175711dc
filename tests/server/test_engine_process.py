"""What the engine's process does with messages and outputs that cannot be written down or read."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from patience import SECONDS

from landrace.engine import EngineOptions, Request, SamplingParams, StepOutput
from landrace.engine.facts import EngineFacts
from landrace.errors import LandraceError, StepError
from landrace.server.engines.messages import Abort, Beat, EngineSettings, Posted, Stop
from landrace.server.engines.process import EngineProcess
from landrace.server.engines.worker import Outlet, Worker

PARAMS = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)


class Unreadable(int):
    """Can be written down, and not be read again."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


async def answers(engine: EngineProcess, *requests: Request) -> list[StepOutput]:
    """The last output of each."""
    events = engine.submit(requests)
    last: list[StepOutput] = []
    while len(last) < len(requests):
        event = await asyncio.wait_for(events.get(), SECONDS)
        assert isinstance(event, StepOutput), event
        if event.finish_reason is not None:
            last.append(event)
    engine.release([request.id for request in requests], abort=())
    return last


def test_a_request_that_cannot_travel_ends_alone(tiny_model: Path) -> None:
    async def talk() -> None:
        settings = EngineSettings(str(tiny_model), threads=1, options=EngineOptions(cache_tokens=512))
        engine = EngineProcess(settings, max_pending=8)
        await engine.start()
        try:
            unwritable = SamplingParams(max_tokens=2, logit_bias=MappingProxyType({1: 1.0}))
            odd = {
                "a": Request("a", (1, 2), unwritable),
                "b": Request("b", (Unreadable(3),), PARAMS),
                "c": Request("c", (1, 2), PARAMS, guide="no guide"),  # type: ignore[arg-type]
            }
            for _ in range(2):
                for request in odd.values():
                    (output,) = await answers(engine, request)
                    assert output.finish_reason == "error" and isinstance(output.error, StepError), request.id
                told = await answers(engine, Request("good", (1, 2, 3), PARAMS), odd["a"], odd["b"])
                good = next(output for output in told if output.request_id == "good")
                assert good.finish_reason == "length"
        finally:
            await engine.stop()

    asyncio.run(talk())


def test_a_model_that_fails_to_open_says_so(tiny_model: Path, tmp_path: Path) -> None:
    """Whatever kind of exception opening it raises."""

    async def start() -> None:
        settings = EngineSettings(str(tiny_model), threads="two")  # type: ignore[arg-type]
        await EngineProcess(settings, max_pending=8).start()

    with pytest.raises(LandraceError, match=r"could not be opened: \w+Error"):
        asyncio.run(start())


class Scripted:
    """An engine that has done its work already."""

    def __init__(self, outputs: Sequence[StepOutput]) -> None:
        self.outputs = list(outputs)
        self.aborted: list[str] = []

    @property
    def has_work(self) -> bool:
        return bool(self.outputs)

    @property
    def facts(self) -> EngineFacts:
        return EngineFacts(0, 0, (), 0, 0.0, 0, 0, 0, 0, 0, 0)

    def step(self) -> list[StepOutput]:
        outputs, self.outputs = self.outputs, []
        return outputs

    def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)


def output(name: str, text: Any) -> StepOutput:
    return StepOutput(name, (1,), text, (), (), None, None, 0, 0)


def test_outputs_that_cannot_be_sent_end_their_requests_only() -> None:
    ours, theirs = Pipe()
    unwritable = threading.Lock()
    engine = Scripted([output("a", "x"), output("b", unwritable), output("c", "z"), output("d", unwritable)])
    work = Worker(theirs, Outlet(theirs), engine, lambda name, folder: "")  # type: ignore[arg-type]
    worker = threading.Thread(target=work.run, daemon=True)
    worker.start()
    told = [entry for _ in range(4) for entry in _received(ours)]
    ours.send(Abort("nobody"))
    ours.send(Posted("e", b"no pickle"))
    told += _received(ours)
    ours.send(Stop())
    worker.join(SECONDS)
    assert not worker.is_alive()
    assert {entry.request_id: entry.text for entry in told if entry.error is None} == {"a": "x", "c": "z"}
    failed = [entry for entry in told if entry.error is not None]
    assert [entry.request_id for entry in failed] == ["b", "d", "e"]
    assert all(isinstance(entry.error, StepError) and entry.finish_reason == "error" for entry in failed)
    assert engine.aborted == ["b", "d", "nobody"]


def _received(connection: Connection) -> list[StepOutput]:
    """What comes next, besides beats."""
    while True:
        assert connection.poll(SECONDS)
        message = connection.recv()
        if not isinstance(message, Beat):
            return message
