"""Keeps the file up to date by which `landrace ps` and `landrace stop` find this server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from landrace.server.engines.hosted import Hosted
from landrace.server.engines.process import EngineStoppedError
from landrace.server.engines.registry import Registry
from landrace.server.running import RunningModel, ServerFile

_SECONDS = 1.0
_DISK_SECONDS = 5.0
"""How long the end waits for a disk that is writing the file."""
_log = logging.getLogger(__name__)


@asynccontextmanager
async def present(
    home: Path, url: str, drain_seconds: int, registry: Registry, stopping: Callable[[], bool]
) -> AsyncIterator[None]:
    """The file is there, and at most a second old, until the block is left: from when it is entered. A disk that does
    not take it is told of once, and nothing else comes of it."""
    file = ServerFile(home, url, time.time(), drain_seconds)

    async def write() -> None:
        models = [await _now(base) for base in registry.bases]
        await asyncio.to_thread(file.write, models, stopping=stopping())

    over, seen = asyncio.Event(), asyncio.Event()
    keeping = asyncio.create_task(_keep(write, seen, over))
    await asyncio.wait({keeping, asyncio.ensure_future(seen.wait())}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield
    finally:
        over.set()
        await asyncio.wait({keeping}, timeout=_DISK_SECONDS)
        file.remove()


async def _keep(write: Callable[[], Awaitable[None]], seen: asyncio.Event, over: asyncio.Event) -> None:
    told = False
    while not over.is_set():
        try:
            await write()
        except Exception as error:  # noqa: BLE001  nothing that befalls this file is the server's end
            if not told:
                _log.warning("`landrace ps` may not see this server: its file could not be written.", exc_info=error)
            told = True
        seen.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), _SECONDS)


async def _now(base: Hosted) -> RunningModel:
    """A model as its engine tells it now."""
    try:
        facts = await base.engine.facts()
    except EngineStoppedError:
        return RunningModel(base.name, base.state, 0, 0, base.waiting, tuple(base.adapters))
    now = facts.engine
    waiting = now.waiting + base.waiting
    return RunningModel(base.name, base.state, facts.resident_bytes, now.running, waiting, tuple(base.adapters))
