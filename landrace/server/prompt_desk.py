"""Threads that read bodies and prepare prompts, so that a long one never stops another call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel

from landrace.errors import CheckpointError
from landrace.server.engines.process import EngineBusyError, EngineProcess
from landrace.server.http.body import parse_request, read_body
from landrace.server.http.json_body import LONG_BODY

MAX_LONG_WAITING = 16
"""Long bodies that may wait for the thread that reads them; they lie in memory meanwhile."""
_SHORT_THREADS = 2

B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")


class PromptDesk:
    """Reads bodies and prepares the prompts of engines, whose templates and tokenizers may take their time: each has
    threads of its own, and what one of them waits for keeps nobody else."""

    def __init__(self) -> None:
        self._reading = _Threads("bodies")
        self._preparing: dict[str, _Threads] = {}
        """By the name of the model, whose engine is another whenever it is opened."""

    async def read(self, http: Request, form: type[B], *, any_type: bool = False) -> B:
        """The body as `form`; `any_type` as in `read_body`. Raises EngineBusyError where too many long bodies wait, and
        what checking raises."""
        data = await read_body(http, any_type=any_type)
        return await self._reading.run(_is_long(data), partial(parse_request, data, form))

    async def prepare(self, engine: EngineProcess, http: Request, job: Callable[[], T]) -> T:
        """What `job` returns or raises, in a thread of `engine`; EngineBusyError as in `read`, EngineStoppedError."""
        threads = self._preparing.setdefault(engine.settings.model, _Threads("prompts"))
        return await threads.run(_is_long(await http.body()), partial(_while_alive, engine, job))

    def close(self) -> None:
        """Ends the threads after what they are doing."""
        for threads in (self._reading, *self._preparing.values()):
            threads.close()


class _Threads:
    """Long jobs have one thread, which takes them in the order they came; short ones never wait for it."""

    def __init__(self, name: str) -> None:
        self._short = ThreadPoolExecutor(_SHORT_THREADS, thread_name_prefix=f"short {name}")
        self._long = ThreadPoolExecutor(1, thread_name_prefix=f"long {name}")
        self._long_waiting = 0

    async def run(self, long: bool, job: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        if not long:
            return await loop.run_in_executor(self._short, job)
        if self._long_waiting == MAX_LONG_WAITING:
            raise EngineBusyError(
                "The server has as many long prompts waiting as it accepts.", hint="Try again shortly."
            )
        self._long_waiting += 1
        try:
            return await loop.run_in_executor(self._long, job)
        finally:
            self._long_waiting -= 1

    def close(self) -> None:
        for pool in (self._short, self._long):
            pool.shutdown(wait=False, cancel_futures=True)


def _while_alive(engine: EngineProcess, job: Callable[[], T]) -> T:
    engine.check_alive()
    try:
        return job()
    except CheckpointError:
        engine.check_alive()  # then the template was stopped with it, and is not to blame
        raise


def _is_long(body: bytes) -> bool:
    return len(body) >= LONG_BODY
