"""`WorkerProcess`: one process with an engine in it, and the pipe to it."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import queue
import threading
from collections.abc import Callable

from landrace.engine.request import Request
from landrace.errors import LandraceError, StepError
from landrace.server.engines.messages import Ended, EngineSettings, FromWorker, Posted, Stop, ToWorker, refusal
from landrace.server.engines.worker import run_worker

_STOP_SECONDS = 5.0
_log = logging.getLogger(__name__)

Told = Callable[["WorkerProcess", FromWorker | Ended], None]


class WorkerProcess:
    """Its methods belong to one event loop, on which `told` is called with whatever the process says, `Ended` last.

    Two threads stand at the pipe, so that the loop never waits for it.
    """

    def __init__(self, settings: EngineSettings, told: Told) -> None:
        self._name = f"engine {settings.model}"
        self._told = told
        self._outgoing: queue.SimpleQueue[Request | ToWorker | None] = queue.SimpleQueue()
        context = multiprocessing.get_context("spawn")
        self._connection, self._theirs = context.Pipe()
        arguments = (self._theirs, settings)
        self._process = context.Process(target=run_worker, args=arguments, name=self._name, daemon=True)
        self._threads = [
            threading.Thread(target=target, name=f"{self._name} {target.__name__}", daemon=True)
            for target in (self._read, self._write)
        ]

    async def start(self) -> None:
        """Raises LandraceError where the machine takes no more processes."""
        self._loop = asyncio.get_running_loop()
        starting = asyncio.ensure_future(asyncio.to_thread(self._start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await starting  # one that is half started cannot be ended
            raise
        except OSError as error:
            raise LandraceError(f"No process can be started: {error.strerror}.") from error

    def _start(self) -> None:
        try:
            self._process.start()
        finally:
            self._theirs.close()
        for thread in self._threads:
            thread.start()

    def send(self, message: Request | ToWorker) -> None:
        """Never waits. What is sent to a process that has ended is lost."""
        self._outgoing.put(message)

    def kill(self) -> None:
        """At once; `Ended` follows."""
        self._process.kill()

    async def end(self, *, patiently: bool = False) -> None:
        """Ends the process if it has not, and waits until it is gone. `patiently`: it is asked first."""
        if self._process.pid is None:  # it was never there
            self._connection.close()
            return
        if patiently:
            self.send(Stop())
        self._outgoing.put(None)
        try:
            if patiently:
                await asyncio.to_thread(self._process.join, _STOP_SECONDS)
        finally:
            self._process.kill()
        await asyncio.to_thread(self._process.join, _STOP_SECONDS)
        if self._process.is_alive():  # the system itself does not let go of it, as where a disk hangs
            _log.error("The process of %s cannot be ended.", self._name)
            return
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        self._connection.close()

    def _write(self) -> None:
        try:
            while (message := self._outgoing.get()) is not None:
                if isinstance(message, Request):
                    self._post(message)
                else:
                    self._connection.send(message)
        except OSError:  # the process is gone; `_read` tells
            return

    def _post(self, request: Request) -> None:
        try:
            posted = Posted.of(request)
        except Exception as cause:  # noqa: BLE001  this request ends; those behind it are sent
            self._tell([refusal(request.id, StepError.of(cause, "be sent the request"))])
        else:
            self._connection.send(posted)

    def _read(self) -> None:
        try:
            while True:
                self._tell(self._connection.recv())
        except Exception as error:  # noqa: BLE001  whatever ended the reading, nothing more will be read
            if not isinstance(error, EOFError | OSError):  # what it says cannot be read, so it is of no use
                _log.exception("The process of %s sent what cannot be read.", self._name)
                self._process.kill()
            self._process.join()
            self._tell(Ended(self._process.exitcode))

    def _tell(self, message: FromWorker | Ended) -> None:
        self._loop.call_soon_threadsafe(self._told, self, message)
