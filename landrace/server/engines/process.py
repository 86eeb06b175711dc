"""The asyncio side of an engine process: starts it, submits requests, hands out their outputs, stops it."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import queue
import threading
from collections.abc import Iterable, Sequence

from landrace.engine.outputs import StepOutput
from landrace.engine.request import Request
from landrace.errors import LandraceError, StepError
from landrace.server.engines.abilities import Abilities
from landrace.server.engines.worker import (
    Abort,
    EngineSettings,
    Failed,
    FromWorker,
    Posted,
    Ready,
    Stop,
    ToWorker,
    refusal,
    run_worker,
)
from landrace.text import Tokenizer

_STOP_SECONDS = 5.0
_log = logging.getLogger(__name__)


class EngineStoppedError(LandraceError):
    """The engine is not there to answer."""


class EngineBusyError(LandraceError):
    """The engine has as many unfinished requests as it accepts."""


Event = StepOutput | EngineStoppedError


class EngineProcess:
    """One engine in a process of its own. Its methods belong to one event loop.

    Two threads stand at the pipe, so that the loop never waits for it.
    """

    def __init__(self, settings: EngineSettings, *, max_pending: int) -> None:
        self.settings = settings
        self.max_pending = max_pending
        self._queues: dict[str, asyncio.Queue[Event]] = {}
        self._stopped: EngineStoppedError | None = EngineStoppedError("The engine has not started.")
        self._outgoing: queue.SimpleQueue[Request | ToWorker | None] = queue.SimpleQueue()

    @property
    def started(self) -> bool:
        """Whether the model has been open, be it alive now or not."""
        return hasattr(self, "_ready")

    @property
    def alive(self) -> bool:
        return self._stopped is None

    @property
    def max_length(self) -> int:
        """Most tokens of a sequence, prompt and output; known once started, like what follows."""
        return self._ready.max_length

    @property
    def shifts(self) -> bool:
        """Whether what is longer than `max_length` goes on without its oldest part."""
        return self._ready.shifts

    @property
    def prompt_limit(self) -> int | None:
        """Most tokens of a prompt."""
        return None if self.shifts else self.max_length

    @property
    def tokenizer(self) -> Tokenizer:
        return self._ready.tokenizer

    def fingerprint(self, adapter: str | None) -> str:
        """A hash of what decides the answers of the model, or of an adapter on it."""
        return self._ready.fingerprints[adapter]

    @property
    def notice(self) -> str | None:
        return self._ready.notice

    @property
    def abilities(self) -> Abilities:
        """What can be asked of the model."""
        return self._ready.abilities

    @property
    def unfinished(self) -> int:
        """Requests that wait or run."""
        return len(self._queues)

    async def start(self) -> None:
        """Starts the process and waits until the model is open. Raises what opening it raised, and leaves no process
        behind then."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        name = f"engine {self.settings.model}"
        self._process = context.Process(target=run_worker, args=(theirs, self.settings), name=name, daemon=True)
        self._process.start()
        theirs.close()
        self._loop = asyncio.get_running_loop()
        self._opening: asyncio.Future[Ready] = self._loop.create_future()
        self._threads = [
            threading.Thread(target=target, name=f"{name} {target.__name__}", daemon=True)
            for target in (self._read, self._write)
        ]
        for thread in self._threads:
            thread.start()
        try:
            self._ready = await self._opening
        except BaseException:
            await self.stop()
            raise
        self._stopped = None

    def submit(self, requests: Sequence[Request]) -> asyncio.Queue[Event]:
        """Gives requests to the engine, all or none, and returns the queue that takes what comes of them.

        Each ends with an output that has a finish reason, or all with one EngineStoppedError; then, or to free them
        early, the caller must `release` them. Raises EngineStoppedError and EngineBusyError.
        """
        self.check_alive()
        if self.unfinished + len(requests) > self.max_pending:
            raise EngineBusyError("The server has as many requests waiting as it accepts.", hint="Try again shortly.")
        events: asyncio.Queue[Event] = asyncio.Queue()
        for request in requests:
            self._queues[request.id] = events
            self._outgoing.put(request)
        return events

    def release(self, request_ids: Iterable[str], *, abort: Iterable[str]) -> None:
        """Forgets submitted requests; those of `abort` have not ended, and the engine drops them."""
        for request_id in request_ids:
            del self._queues[request_id]
        for request_id in abort:
            self._outgoing.put(Abort(request_id))

    def check_alive(self) -> None:
        """Raises the EngineStoppedError that tells why it does not answer any more."""
        if self._stopped is not None:
            raise self._stopped

    def give_up(self, reason: str) -> None:
        """Ends every unfinished request with an EngineStoppedError, and refuses new ones in the same way; a prompt that
        is being written is not waited for."""
        if self._stopped is None:
            self._stopped = EngineStoppedError(reason)
            if self.tokenizer.chat_template is not None:
                self.tokenizer.chat_template.close()
            for events in {id(events): events for events in self._queues.values()}.values():
                events.put_nowait(self._stopped)

    async def stop(self) -> None:
        """Ends the process, the hard way if it must. What is still running there is lost, so drain first."""
        ready = self.alive
        self.give_up("The server is stopping.")
        self._outgoing.put(Stop())
        self._outgoing.put(None)
        try:
            if ready:  # one that is still opening its model does not listen yet
                await asyncio.to_thread(self._process.join, _STOP_SECONDS)
        finally:
            self._process.kill()
        await asyncio.to_thread(self._process.join)
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
            output = refusal(request.id, StepError.of(cause, "be sent the request"))
            self._loop.call_soon_threadsafe(self._take, [output])
        else:
            self._connection.send(posted)

    def _read(self) -> None:
        try:
            while True:
                message: FromWorker = self._connection.recv()
                self._loop.call_soon_threadsafe(self._take, message)
        except Exception as error:  # noqa: BLE001  whatever ended the reading, nothing more will be read
            if not isinstance(error, EOFError | OSError):  # what it says cannot be read, so it is of no use
                _log.exception("The engine process of %s sent what cannot be read.", self.settings.model)
                self._process.kill()
            self._process.join()
            self._loop.call_soon_threadsafe(self._lost)

    def _take(self, message: FromWorker) -> None:
        match message:
            case Ready():
                if not self._opening.cancelled():
                    self._opening.set_result(message)
            case Failed(error):
                if not self._opening.cancelled():
                    self._opening.set_exception(error)
            case outputs:
                for output in outputs:
                    events = self._queues.get(output.request_id)
                    if events is not None:
                        events.put_nowait(output)

    def _lost(self) -> None:
        ending = f"The engine process of {self.settings.model} ended with exit code {self._process.exitcode}"
        if not self._opening.done():
            self._opening.set_exception(LandraceError(f"{ending} while it opened the model."))
        elif self.alive:
            _log.error("%s; its model answers no more until the server is started again.", ending)
            self.give_up("The engine has stopped; the server must be started again.")
