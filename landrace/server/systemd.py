"""`ServiceManager`: tells systemd how the server is, as sd_notify(3) describes."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress

from landrace.server.engines.registry import Registry

_LOOK_SECONDS = 1.0
_log = logging.getLogger(__name__)


class ServiceManager:
    """Takes datagrams at the address that NOTIFY_SOCKET names; without one nothing is told."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Takes what is meant for this process out of `environment`, so that no child speaks in its name."""
        address = environment.pop("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte that names of the abstract namespace begin with.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        usec, for_pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        is_ours = for_pid in ("", str(os.getpid()))
        self._watchdog_seconds = int(usec) / 1e6 if usec.isdigit() and int(usec) > 0 and is_ours else None

    @asynccontextmanager
    async def told(self, registry: Registry, stopping: Callable[[], bool]) -> AsyncIterator[None]:
        """The server is ready from here on, and stops from where `stopping` says so, at the end at the latest.
        Meanwhile its state is told, and to a watchdog that the event loop turns."""
        if not self._address:
            yield
            return
        self._tell("READY=1")
        telling = asyncio.create_task(self._keep_telling(registry, stopping))
        try:
            yield
        finally:
            telling.cancel()
            with suppress(asyncio.CancelledError):
                await telling
            self._tell("STOPPING=1", "STATUS=Stopping.")

    async def _keep_telling(self, registry: Registry, stopping: Callable[[], bool]) -> None:
        watched = self._watchdog_seconds
        pause = _LOOK_SECONDS if watched is None else min(_LOOK_SECONDS, watched / 3)
        last = ""
        while True:
            status = "STOPPING=1\nSTATUS=Stopping." if stopping() else f"STATUS={_status(registry)}"
            news = [status] if status != last else []
            self._tell(*news, *([] if watched is None else ["WATCHDOG=1"]))
            last = status
            await asyncio.sleep(pause)

    def _tell(self, *lines: str) -> None:
        if not lines:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:  # a service manager that does not listen is no reason not to serve
            _log.warning("The service manager could not be told %s: %s", lines[0], error)


def _status(registry: Registry) -> str:
    """In one line."""
    engines = registry.engines
    troubles = [engine.trouble for engine in engines if engine.trouble is not None]
    if troubles:
        return " ".join(troubles)
    unfinished = sum(engine.unfinished for engine in engines)
    return f"Serving {', '.join(engine.settings.model for engine in engines)}; {unfinished} unfinished requests."
