"""`Hosted`: a base model of this server with its adapters, whether its engine is open or not."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from landrace.errors import LandraceError
from landrace.server.engines.describing import Description
from landrace.server.engines.messages import EngineSettings
from landrace.server.engines.process import EngineProcess

State = Literal["closed", "opening", "open", "closing", "failed"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """An adapter of a hosted model, by the folder it is read from whenever the model is opened."""

    folder: Path
    created: int = field(default_factory=lambda: int(time.time()))
    """Seconds since the epoch."""
    problem: LandraceError | None = None
    """Why it could not be loaded when its model was opened again."""


class Hosted:
    """Opens and closes its engine when it is told to, and counts who uses it. Belongs to one event loop."""

    def __init__(self, settings: EngineSettings, *, max_pending: int) -> None:
        self.name = settings.model
        self.max_pending = max_pending
        self.created = int(time.time())
        self.adapters: dict[str, Adapter] = {name: Adapter(folder) for name, folder in settings.adapters.items()}
        self.description: Description | None = None
        """None until it has been told."""
        self.n_bytes = 0
        """Of memory, that it needs, as far as is known."""
        self.opening: asyncio.Task[None] | None = None
        """What opens it now, or waits for the room to do so."""
        self.failure: LandraceError | None = None
        """Why it could not be opened the last time."""
        self.failed_at = 0.0
        """By `time.monotonic`."""
        self.waiting = 0
        """Calls that wait until it is open."""
        self.opened_at: float | None = None
        """Seconds since the epoch; None where it is not open."""
        self.settings = settings
        """With the adapters that were asked for at the start."""
        self._users = 0
        self._closing = False
        self.engine = self._new_engine({})
        """A new one for every time that the model is opened."""

    @property
    def state(self) -> State:
        if self._closing:
            return "closing"
        if self.opened_at is not None:
            return "open"
        if self.opening is not None:
            return "opening"
        return "closed" if self.failure is None else "failed"

    @property
    def is_open(self) -> bool:
        """Whether its engine has been opened, and is not about to be closed."""
        return self.state == "open"

    @property
    def idle(self) -> bool:
        """Whether it is open and nobody uses it."""
        return self.is_open and not self._users and not self.engine.unfinished

    def take(self) -> None:
        """It stays open, if it is, until `leave` has been called as often."""
        self._users += 1

    def leave(self) -> None:
        self._users -= 1

    async def open(self, *, strict: bool) -> None:
        """Opens the engine and loads the adapters. Raises LandraceError, and leaves no process behind then.

        Unless `strict`, an adapter that cannot be loaded has a `problem` from now on, and the model is open without it.
        """
        engine = self._new_engine({name: one.folder for name, one in self.adapters.items()} if strict else {})
        await engine.start()
        try:
            for name, adapter in () if strict else list(self.adapters.items()):
                self.adapters[name] = replace(adapter, problem=await self._problem(engine, name, adapter.folder))
        except BaseException:
            await engine.stop()
            raise
        self.engine, self.opened_at, self.failure = engine, time.time(), None

    async def close(self) -> None:
        """Ends the engine. What runs there is lost."""
        self._closing = True
        try:
            await self.engine.stop()
        finally:
            self._closing, self.opened_at = False, None
            self.engine = self._new_engine({})

    def fail(self, error: LandraceError) -> None:
        """It could not be opened."""
        self.failure, self.failed_at = error, time.monotonic()

    async def _problem(self, engine: EngineProcess, name: str, folder: Path) -> LandraceError | None:
        try:
            await engine.load_adapter(name, folder)
        except LandraceError as error:
            _log.error("The adapter %s of %s could not be loaded again: %s", name, self.name, error.message)
            return error
        return None

    def _new_engine(self, adapters: Mapping[str, Path]) -> EngineProcess:
        return EngineProcess(replace(self.settings, adapters=adapters), max_pending=self.max_pending)
