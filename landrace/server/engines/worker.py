"""The engine's own process: opens the model, then steps for as long as there is work."""

from __future__ import annotations

import logging
import pickle
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from landrace.engine.outputs import StepOutput
from landrace.errors import LandraceError, RequestError, StepError
from landrace.server.engines.heartbeat import Heartbeat, resident_bytes
from landrace.server.engines.messages import (
    Abort,
    Done,
    EngineSettings,
    Failed,
    FromWorker,
    LoadAdapter,
    Opening,
    Posted,
    ProcessFacts,
    Ready,
    Stop,
    ToWorker,
    UnloadAdapter,
    refusal,
)
from landrace.server.logs.lines import start_logging

if TYPE_CHECKING:
    from landrace.embedding.encoder_engine import EncoderEngine
    from landrace.embedding.opening import ReadingModel
    from landrace.engine.engine import Engine

_TAKING_SECONDS = 0.02
"""How long new requests are taken before the running ones get their next step."""
_log = logging.getLogger(__name__)


class Outlet:
    """The pipe to the process that started this one; several threads send on it. Raises OSError once that is gone."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: FromWorker) -> None:
        with self._lock:
            self._connection.send(message)


def run_worker(connection: Connection, settings: EngineSettings) -> None:
    """The process's whole life. It ends on `Stop`, when the model does not open, or with the process at the other end
    of the pipe, however that one ended."""
    # The HTTP side decides when to stop: a Ctrl-C or a service manager's SIGTERM reaches the whole group at once, and
    # running answers are to be finished first.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    start_logging(settings.log_format)
    outlet = Outlet(connection)
    try:
        try:
            opened, ready = _open(settings, outlet)
        except LandraceError as error:
            outlet.send(Failed(error))
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001  told as what the model's own errors are
            _log.exception("The model could not be opened.")
            outlet.send(Failed(LandraceError(f"The model could not be opened: {type(error).__name__}: {error}")))
        else:
            outlet.send(ready)
            if ready.tokenizer.chat_template is not None:
                ready.tokenizer.chat_template.close()  # prompts are written at the other end
            Worker(connection, outlet, opened.engine, _Loader(opened, settings)).run()
    except (EOFError, OSError):  # the other end of the pipe is gone
        return


def _open(settings: EngineSettings, outlet: Outlet) -> tuple[ReadingModel, Ready]:
    """The model with those of its adapters that can be opened."""
    from landrace.embedding.opening import open_reading
    from landrace.server.engines.opening import abilities_of

    opened = open_reading(
        settings.model,
        weights=settings.weights,
        kernels=settings.kernels,
        threads=settings.threads,
        options=settings.options,
    )
    load = _Loader(opened, settings)
    fingerprints: dict[str | None, str] = {None: load.fingerprint(None)}
    lost: dict[str, LandraceError] = {}
    for name, folder in settings.adapters.items():
        outlet.send(Opening(name))
        try:
            fingerprints[name] = load(name, folder)
        except LandraceError as error:
            lost[name] = error
    opened.tokenizer.warm_up()  # it travels with what it knows
    engine = opened.engine
    ready = Ready(
        max_length=engine.max_length,
        shifts=opened.decoder is not None and settings.options.shifts,
        tokenizer=opened.tokenizer,
        fingerprints=fingerprints,
        notice=opened.notice,
        facts=ProcessFacts(engine.facts, resident_bytes()),
        lost=lost,
        abilities=abilities_of(opened),
    )
    return opened, ready


class _Loader:
    """Opens adapters of a model."""

    def __init__(self, opened: ReadingModel, settings: EngineSettings) -> None:
        self._opened = opened
        self._settings = settings

    def __call__(self, name: str, folder: Path) -> str:
        """Its fingerprint. Raises LandraceError, whatever went wrong, and then there is no such adapter."""
        try:
            found = self.fingerprint(folder)
            self._opened.load_adapter(name, folder)
            return found
        except LandraceError:
            raise
        except Exception as error:
            _log.exception("The adapter in %s could not be opened.", folder)
            reason = f"{type(error).__name__}: {error}"
            raise LandraceError(f"The adapter in {folder} could not be opened: {reason}") from error

    def fingerprint(self, folder: Path | None) -> str:
        """Of the model, or of an adapter on it."""
        from landrace.server.engines.fingerprint import fingerprint_of

        return fingerprint_of(self._opened, self._settings.weights, self._settings.options, folder)


class Worker:
    """Does what messages ask for, and steps the engine in between."""

    def __init__(
        self,
        connection: Connection,
        outlet: Outlet,
        engine: Engine | EncoderEngine,
        load_adapter: Callable[[str, Path], str],
    ) -> None:
        self._connection = connection
        self._outlet = outlet
        self._engine = engine
        self._load_adapter = load_adapter
        self._heartbeat = Heartbeat(outlet.send, lambda: engine.facts)

    def run(self) -> None:
        """Until `Stop`. Raises EOFError or OSError when the other end of the pipe is gone."""
        self._heartbeat.start()
        try:
            while self._take_messages():
                self._step()
        finally:
            self._heartbeat.stop()

    def _take_messages(self) -> bool:
        """Until there is work, and a little longer if there are more. False after `Stop`."""
        step_due = time.monotonic() + _TAKING_SECONDS
        while not self._engine.has_work or (time.monotonic() < step_due and self._connection.poll()):
            self._heartbeat.busy = False
            message: ToWorker = self._connection.recv()
            self._heartbeat.busy = True
            if isinstance(message, Stop):
                return False
            self._take(message)
            self._heartbeat.progress += 1
        return True

    def _take(self, message: ToWorker) -> None:
        match message:
            case Abort(request_id):
                self._engine.abort(request_id)
            case Posted(request_id, pickled):
                try:
                    self._engine.add(pickle.loads(pickled))
                except RequestError as error:
                    self._outlet.send([refusal(request_id, error)])
                except Exception as cause:  # noqa: BLE001  the request ends, the engine goes on
                    self._outlet.send([refusal(request_id, StepError.of(cause, "read the request"))])
            case LoadAdapter(name, folder):
                try:
                    self._outlet.send(Done(name, fingerprint=self._load_adapter(name, folder)))
                except LandraceError as error:
                    self._outlet.send(Done(name, error=error))
            case UnloadAdapter(name):
                try:
                    self._engine.remove_adapter(name)
                    self._outlet.send(Done(name))
                except LandraceError as error:
                    self._outlet.send(Done(name, error=error))

    def _step(self) -> None:
        outputs = self._engine.step()
        self._heartbeat.progress += 1
        _log_failures(outputs)
        if outputs:
            self._send(outputs)

    def _send(self, outputs: list[StepOutput]) -> None:
        """Where outputs cannot be written down together, those that can be are sent one by one, and the others end."""
        try:
            self._outlet.send(outputs)
        except OSError:
            raise
        except Exception as cause:  # noqa: BLE001  the request ends, the engine goes on
            for output in outputs:
                if len(outputs) > 1:
                    self._send([output])
                else:
                    self._engine.abort(output.request_id)
                    self._outlet.send([refusal(output.request_id, StepError.of(cause, "send what it computed"))])


def _log_failures(outputs: list[StepOutput]) -> None:
    """The traceback stays here: it does not travel with an error. A step's requests share theirs."""
    told: set[int] = set()
    for output in outputs:
        if isinstance(output.error, StepError) and id(output.error) not in told:
            told.add(id(output.error))
            _log.error("%s", output.error.message, exc_info=output.error.__cause__)
