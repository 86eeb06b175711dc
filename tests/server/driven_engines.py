"""Engine processes driven without HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from patience import SECONDS

from landrace.engine import EngineOptions, Request, SamplingParams, StepOutput
from landrace.server.engines.messages import EngineSettings
from landrace.server.engines.process import EngineProcess, EngineStoppedError

GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
ENDLESS = SamplingParams(max_tokens=100_000, temperature=0.0, ignore_eos=True)
ROOM = EngineOptions(cache_tokens=131072)


@asynccontextmanager
async def running(model: Path, adapters: Mapping[str, Path] | None = None, **how: Any) -> AsyncIterator[EngineProcess]:
    """An engine that is up, and stopped at the end."""
    settings = EngineSettings(str(model), adapters or {}, threads=1, options=ROOM, **how)
    engine = EngineProcess(settings, max_pending=64)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


def pid(engine: EngineProcess) -> int:
    assert engine._worker is not None
    found = engine._worker._process.pid
    assert found is not None
    return found


def kill(engine: EngineProcess, number: signal.Signals = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):  # it has ended already
        os.kill(pid(engine), number)


class Asked:
    """A request of an engine, and what came of it so far."""

    _n = 0

    def __init__(
        self, engine: EngineProcess, adapter: str | None = None, params: SamplingParams = GREEDY, prompt: str = "hello"
    ) -> None:
        Asked._n += 1
        self._engine = engine
        self._request = Request(f"asked-{Asked._n}", tuple(prompt.encode()), params, adapter)
        self._events = engine.submit([self._request])
        self.tokens: list[int] = []

    async def next(self) -> StepOutput:
        """Raises EngineStoppedError."""
        event = await asyncio.wait_for(self._events.get(), SECONDS)
        if isinstance(event, EngineStoppedError):
            self._engine.release([self._request.id], abort=[self._request.id])
            raise event
        self.tokens += event.token_ids
        if event.finish_reason is not None:
            self._engine.release([self._request.id], abort=())
        return event

    async def answer(self) -> list[int]:
        """Its tokens to the end. Raises EngineStoppedError, and the request's own error."""
        while True:
            event = await self.next()
            if event.error is not None:
                raise event.error
            if event.finish_reason is not None:
                return self.tokens

    def leave(self) -> None:
        self._engine.release([self._request.id], abort=[self._request.id])


async def ready(engine: EngineProcess) -> None:
    """Waits until it is up again."""
    async with asyncio.timeout(SECONDS):
        while engine.state != "ready":
            await asyncio.sleep(0.02)
