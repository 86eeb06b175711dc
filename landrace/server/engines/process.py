"""`EngineProcess`: keeps an engine up in a process of its own, submits requests and hands out their outputs."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from landrace.engine.outputs import StepOutput
from landrace.engine.request import Request
from landrace.errors import LandraceError, RequestError
from landrace.server.engines.abilities import Abilities
from landrace.server.engines.adapters import AdapterTable
from landrace.server.engines.messages import (
    Abort,
    Beat,
    Done,
    Ended,
    EngineSettings,
    Failed,
    FromWorker,
    LoadAdapter,
    Opening,
    ProcessFacts,
    Ready,
    UnloadAdapter,
)
from landrace.server.engines.pending import Pending
from landrace.server.engines.watch import TICK_SECONDS, Deaths, Watch
from landrace.server.engines.worker_process import WorkerProcess
from landrace.text import Tokenizer

State = Literal["opening", "ready", "restarting", "stopped"]
_log = logging.getLogger(__name__)


class EngineStoppedError(LandraceError):
    """The engine is not there to answer. `code` is the API's word for it."""

    def __init__(
        self, message: str, *, hint: str | None = None, code: str = "engine_stopped", retry_after: int | None = None
    ) -> None:
        """`retry_after`: seconds until it may be there again, where it will."""
        super().__init__(message, hint=hint)
        self.code = code
        self.retry_after = retry_after


class EngineBusyError(LandraceError):
    """The engine has as many unfinished requests as it accepts."""


Event = StepOutput | EngineStoppedError


class EngineProcess:
    """One engine, in one process after another: one that dies or hangs is replaced. Its methods belong to one event
    loop."""

    def __init__(self, settings: EngineSettings, *, max_pending: int) -> None:
        self.settings = settings
        self.max_pending = max_pending
        self.failure: str | None = None
        """Why it is not started again: its processes have ended too often."""
        self.restarts = 0
        self._state: State = "stopped"
        self._reason = "The engine has not started."
        self._pending = Pending(max_pending)
        self._queues: dict[str, asyncio.Queue[Event]] = {}
        self._keys: dict[str, str] = {}
        """Of the adapters that requests use, by request."""
        self._adapters = AdapterTable(settings.adapters)
        self._changing = asyncio.Lock()
        """Held while an adapter is loaded or unloaded."""
        self._asked: dict[str, asyncio.Future[None]] = {}
        """Who waits for an adapter to be loaded or gone, by key."""
        self._worker: WorkerProcess | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        """Whether the model has been open, be it alive now or not."""
        return hasattr(self, "_ready")

    @property
    def state(self) -> State:
        """opening: by `start`. restarting: after its process died or hung. stopped: not started, or for good."""
        return self._state

    @property
    def alive(self) -> bool:
        """Whether it takes requests now."""
        return self._state == "ready"

    @property
    def trouble(self) -> str | None:
        """Why an engine that should answer does not, or may not."""
        if self.failure is not None or self._state == "restarting":
            return self._reason
        if self.alive and self._watch.late is not None:
            return f"{self._named} {self._watch.late}."
        return None

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
        """A hash of what decides the answers of the model, or of an adapter on it, to requests that are submitted
        now."""
        return self._ready.fingerprints[None] if adapter is None else self._adapters.fingerprint(adapter)

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

    @property
    def adapters(self) -> Mapping[str, Path]:
        """Name to folder of those that are loaded, or should be."""
        return self._adapters.folders

    @property
    def lost_adapters(self) -> Mapping[str, LandraceError]:
        """Those of them that could not be opened again after a restart, and why. Loading one anew brings it back."""
        return self._adapters.lost

    async def facts(self) -> ProcessFacts:
        """As of a second ago. Raises EngineStoppedError."""
        self.check_alive()
        return replace(self._facts, restarts=self.restarts)

    async def start(self) -> None:
        """Starts the process and waits until the model is open. Raises what opening it or an adapter raised, and leaves
        no process behind then."""
        self.failure = None
        self._deaths = Deaths()
        self._adapters.try_again()
        self._state, self._reason = "opening", "The model is being opened."
        try:
            await self._open()
            for error in self._adapters.lost.values():
                raise error
        except BaseException:
            await self.stop()
            raise
        self._keeper = asyncio.create_task(self._keep())

    def submit(self, requests: Sequence[Request]) -> asyncio.Queue[Event]:
        """Gives requests to the engine, all or none, and returns the queue that takes what comes of them.

        Each ends with an output that has a finish reason, or all with one EngineStoppedError; then, or to free them
        early, the caller must `release` them. Raises EngineStoppedError, EngineBusyError, and RequestError for an
        adapter that is not there.
        """
        self.check_alive()
        if (reason := self._pending.refusal(requests)) is not None:
            raise EngineBusyError(reason, hint="Try again shortly.")
        assert self._worker is not None
        keys = {request.id: self._key(request.adapter) for request in requests if request.adapter is not None}
        events: asyncio.Queue[Event] = asyncio.Queue()
        for request in requests:
            self._pending.add(request)
            self._queues[request.id] = events
            key = keys.get(request.id)
            if key is not None:
                self._adapters.use(key)
            self._worker.send(request if key is None else replace(request, adapter=key))
        self._keys |= keys
        return events

    def release(self, request_ids: Iterable[str], *, abort: Iterable[str]) -> None:
        """Forgets submitted requests; those of `abort` have not ended, and the engine drops them."""
        for request_id in abort:
            self._send(Abort(request_id))
        for request_id in request_ids:
            del self._queues[request_id]
            self._pending.remove(request_id)
            key = self._keys.pop(request_id, None)
            if key is not None and self._adapters.leave(key):
                self._send(UnloadAdapter(key))

    def check_alive(self) -> None:
        """Raises the EngineStoppedError that tells why it does not answer now or any more."""
        if not self.alive:
            raise self._refusal()

    def give_up(self, reason: str) -> None:
        """Ends every unfinished request with an EngineStoppedError, and refuses new ones in the same way; a prompt that
        is being written is not waited for. Its process is not replaced any more."""
        if self._keeper is not None:
            self._keeper.cancel()
        if self._state != "stopped":
            self._end_requests("stopped", reason)
            if self.started and self.tokenizer.chat_template is not None:
                self.tokenizer.chat_template.close()

    async def stop(self) -> None:
        """Ends the process, the hard way if it must. What is still running there is lost, so drain first."""
        ready = self.alive
        self.give_up("The server is stopping.")
        if self._keeper is not None:
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._worker is not None:
            # One that is still opening its model does not listen yet.
            await self._worker.end(patiently=ready)
        self._keeper = self._worker = None
        await _end_template(self.tokenizer if self.started else None)

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Opens the peft adapter in `folder`; from then on requests that are submitted with `name` use it.

        Under a name in use it replaces that adapter: requests that were submitted before finish on the old one. It is
        opened again after a restart. Raises LandraceError of what went wrong; then all is as before.
        """
        async with self._changing:
            self.check_alive()
            key = self._adapters.begin(name, folder)
            self._send(LoadAdapter(key, folder))
            await self._answer(key)

    async def unload_adapter(self, name: str) -> None:
        """Refuses the adapter to new requests at once, and returns when those that use it have ended and it is gone.
        Raises LandraceError of what went wrong."""
        async with self._changing:
            self.check_alive()
            key = self._adapters.remove(name)
        if key is not None:
            self._retire(key)
            await self._answer(key)

    async def _answer(self, key: str) -> None:
        """Waits for what comes of loading an adapter or taking it off."""
        answer = self._asked[key] = asyncio.get_running_loop().create_future()
        await answer

    def _retire(self, key: str) -> None:
        """Takes an adapter off as soon as no request uses it."""
        if self._adapters.retire(key):
            self._send(UnloadAdapter(key))

    def _key(self, adapter: str) -> str:
        if adapter in self._adapters.lost:
            raise EngineStoppedError(
                f"The adapter {adapter} could not be opened when its engine was started again; the log says why.",
                hint="It has to be loaded anew.",
                code="adapter_lost",
            )
        try:
            return self._adapters.key(adapter)
        except KeyError:
            raise RequestError(f"There is no adapter called {adapter!r}.", field="model") from None

    def _send(self, message: Abort | LoadAdapter | UnloadAdapter) -> None:
        if self.alive and self._worker is not None:  # a process that was replaced took with it what this is about
            self._worker.send(message)

    def _refusal(self) -> EngineStoppedError:
        if self._state != "restarting":
            return EngineStoppedError(self._reason)
        left = self._opening_seconds - (time.monotonic() - self._down_since)
        return EngineStoppedError(
            self._reason, hint="Send it again.", code="engine_restarting", retry_after=max(1, math.ceil(left))
        )

    async def _open(self) -> None:
        """A process with the model open. Raises LandraceError; what is left of the process is in `_worker`."""
        begun, loop = time.monotonic(), asyncio.get_running_loop()
        self._opening: asyncio.Future[Ready] = loop.create_future()
        self._over: asyncio.Future[str] = loop.create_future()
        self._opening_adapter: str | None = None
        self._watch = Watch(begun, self.settings.step_seconds)
        self._worker = WorkerProcess(replace(self.settings, adapters=self._adapters.to_open()), self._take)
        await self._worker.start()
        before = self.tokenizer if self.started else None
        self._ready = await self._opening
        self._facts = self._ready.facts
        self._adapters.opened(self._ready.fingerprints, self._ready.lost)
        self._opening_seconds = time.monotonic() - begun
        self._state = "ready"
        await _end_template(before)

    async def _keep(self) -> None:
        """Replaces the process whenever it has ended or hangs, until that happens too often."""
        try:
            while self.failure is None:
                await self._replace(await self._ending())
        except Exception:  # noqa: BLE001  a bug here must not leave an engine that nobody looks after
            _log.exception("The supervisor of %s failed.", self.settings.model)
            self._fail(f"The supervisor of {self.settings.model} failed; the log says why.")

    async def _ending(self) -> str:
        """Waits until the process has ended or hangs; what happened."""
        while not (await asyncio.wait({self._over}, timeout=TICK_SECONDS))[0]:
            self._watch.tick(time.monotonic())
            if (hang := self._watch.hang) is not None:
                return f"{self._named} {hang}"
        return self._over.result()

    async def _replace(self, ending: str) -> None:
        assert self._worker is not None
        self._down_since = time.monotonic()
        self._end_requests("restarting", f"{ending}; it is being started again.")
        while True:
            _log.error("%s.", ending)
            await self._worker.end()
            if not self._deaths.note(time.monotonic()):
                self._fail(f"{ending}. That was once too often: it is not started again.")
                return
            await asyncio.sleep(self._deaths.pause)
            try:
                await self._open()
            except LandraceError as error:
                ending = error.message.rstrip(".")
            else:
                break
        self.restarts += 1
        _log.warning("%s is up again after %.1f seconds.", self._named, time.monotonic() - self._down_since)
        for name, lost in self._adapters.lost.items():
            _log.error("The adapter %s could not be opened again: %s", name, lost.message)

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self._end_requests("stopped", reason)

    def _end_requests(self, state: State, reason: str) -> None:
        """Ends every unfinished request with an EngineStoppedError, and refuses new ones in the same way."""
        self._state, self._reason = state, reason
        for events in {id(events): events for events in self._queues.values()}.values():
            events.put_nowait(self._refusal())
        loading, asked = self._adapters.gone(), self._asked
        self._asked = {}
        for key, answer in asked.items():
            if not answer.done():
                if key in loading:
                    answer.set_exception(self._refusal())
                else:
                    answer.set_result(None)

    @property
    def _named(self) -> str:
        return f"The engine process of {self.settings.model}"

    def _take(self, worker: WorkerProcess, message: FromWorker | Ended) -> None:
        """What a process says. One that has been replaced says nothing of use."""
        if worker is not self._worker:
            return
        match message:
            case Opening(key):
                self._opening_adapter = key
            case Ready():
                if not self._opening.done():
                    self._opening.set_result(message)
            case Failed(error):
                if not self._opening.done():
                    self._opening.set_exception(error)
            case Ended(exit_code):
                self._take_end(f"{self._named} ended with exit code {exit_code}")
            case Beat():
                self._facts = message.facts
                self._watch.heard(message)
            case Done():
                self._take_answer(message)
            case outputs:
                for output in outputs:
                    events = self._queues.get(output.request_id)
                    if events is not None:
                        events.put_nowait(output)

    def _take_end(self, ending: str) -> None:
        self._over.set_result(ending)
        if not self._opening.done():
            what = "the model"
            if self._opening_adapter is not None:
                what = f"the adapter in {self._adapters.to_open()[self._opening_adapter]}"
                self._adapters.lose(self._opening_adapter, LandraceError(f"{ending} while it opened it."))
            self._opening.set_exception(LandraceError(f"{ending} while it opened {what}."))

    def _take_answer(self, done: Done) -> None:
        if done.fingerprint is not None:
            replaced = self._adapters.loaded(done.name, done.fingerprint)
            if replaced is not None:
                self._retire(replaced)
        else:
            self._adapters.failed(done.name)
        answer = self._asked.pop(done.name, None)
        if answer is None or answer.done():
            if done.error is not None:
                _log.error("An adapter could not be loaded or taken off: %s", done.error.message)
        elif done.error is None:
            answer.set_result(None)
        else:
            answer.set_exception(done.error)


async def _end_template(tokenizer: Tokenizer | None) -> None:
    """Ends the process that writes prompts, when it has written those it is at; it would stay as long as the tokenizer,
    which caches may hold."""
    if tokenizer is not None and tokenizer.chat_template is not None:
        await asyncio.to_thread(tokenizer.chat_template.finish)
