"""`Watch`: what a server remembers of its last minutes, for its operator."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from landrace.engine.facts import EngineFacts
from landrace.server.admin.failures import Failures
from landrace.server.admin.recent import Recent
from landrace.server.admin.recent_log import RecentLog
from landrace.server.admin.throughput import SAMPLE_SECONDS, Throughput
from landrace.server.engines.messages import ProcessFacts
from landrace.server.engines.process import EngineProcess, EngineStoppedError
from landrace.server.engines.registry import Registry


class Watch:
    """Of one server."""

    def __init__(self) -> None:
        self.started = time.time()
        """Seconds since the epoch."""
        self.recent = Recent()
        self.throughput = Throughput()
        self.failures = Failures()
        self.log = RecentLog()

    @asynccontextmanager
    async def watching(self, registry: Registry) -> AsyncIterator[None]:
        """Looks at the engines, and listens to the log, until it is left."""
        logging.getLogger().addHandler(self.log)
        looking = asyncio.create_task(self._look(registry))
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            logging.getLogger().removeHandler(self.log)

    async def _look(self, registry: Registry) -> None:
        while True:
            self.throughput.sample(await engine_facts(registry))
            await asyncio.sleep(SAMPLE_SECONDS)


async def engine_facts(registry: Registry) -> Mapping[str, EngineFacts]:
    """Of the engines that answer, by model."""
    found = {engine.settings.model: await facts_of(engine) for engine in registry.engines}
    return {model: facts.engine for model, facts in found.items() if facts is not None}


async def facts_of(engine: EngineProcess) -> ProcessFacts | None:
    """None for an engine that does not answer."""
    try:
        return await engine.facts()
    except EngineStoppedError:
        return None
