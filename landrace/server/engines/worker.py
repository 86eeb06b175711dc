"""The engine's own process: opens the model, then steps for as long as there is work."""

from __future__ import annotations

import logging
import pickle
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from landrace.engine.options import EngineOptions
from landrace.engine.outputs import StepOutput
from landrace.engine.request import Request
from landrace.errors import LandraceError, RequestError, StepError

if TYPE_CHECKING:
    from landrace.embedding.encoder_engine import EncoderEngine
    from landrace.engine.engine import Engine
    from landrace.server.engines.abilities import Abilities
    from landrace.text import Tokenizer


@dataclass(frozen=True)
class EngineSettings:
    """What the engine process opens."""

    model: str
    adapters: Mapping[str, Path] = field(default_factory=dict)
    weights: str = "stored"
    kernels: str = "auto"
    threads: int | None = None
    options: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True)
class Ready:
    """The model is open. The tokenizer travels, so that the HTTP side needs neither the checkpoint nor torch."""

    max_length: int
    shifts: bool
    """Whether what is longer goes on without its oldest part."""
    tokenizer: Tokenizer
    fingerprints: Mapping[str | None, str]
    """Of each adapter by name, and under None that of the model alone."""
    notice: str | None
    """What the user should know about how it is served."""
    abilities: Abilities


@dataclass(frozen=True)
class Failed:
    """The model could not be opened."""

    error: LandraceError


@dataclass(frozen=True)
class Posted:
    """A request on its way: should it not be readable at the other end, its name still is."""

    request_id: str
    pickled: bytes

    @classmethod
    def of(cls, request: Request) -> Posted:
        return cls(request.id, pickle.dumps(request))


@dataclass(frozen=True)
class Abort:
    """The client of a request is gone."""

    request_id: str


@dataclass(frozen=True)
class Stop:
    """End the process."""


_TAKING_SECONDS = 0.02
"""How long new requests are taken before the running ones get their next step."""

ToWorker = Posted | Abort | Stop
FromWorker = Ready | Failed | list[StepOutput]
_log = logging.getLogger(__name__)


def run_worker(connection: Connection, settings: EngineSettings) -> None:
    """The process's whole life. It ends on `Stop`, when the model does not open, or with the process at the other end
    of the pipe, however that one ended."""
    # The HTTP side decides when to stop: a Ctrl-C or a service manager's SIGTERM reaches the whole group at once, and
    # running answers are to be finished first.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    from landrace.server.engines.opening import open_served

    try:
        first: FromWorker
        opened, first = open_served(settings)
    except LandraceError as error:
        first = Failed(error)
    except Exception as error:  # noqa: BLE001  told as what the model's own errors are
        _log.exception("The model could not be opened.")
        first = Failed(LandraceError(f"The model could not be opened: {type(error).__name__}: {error}"))
    try:
        connection.send(first)
        if isinstance(first, Ready):
            if opened.tokenizer.chat_template is not None:
                opened.tokenizer.chat_template.close()  # prompts are written at the other end
            _work(connection, opened.engine)
    except (EOFError, OSError):  # the other end of the pipe is gone
        return


def _work(connection: Connection, engine: Engine | EncoderEngine) -> None:
    while True:
        step_due = time.monotonic() + _TAKING_SECONDS
        while not engine.has_work or (time.monotonic() < step_due and connection.poll()):
            message: ToWorker = connection.recv()
            match message:
                case Stop():
                    return
                case Abort(request_id):
                    engine.abort(request_id)
                case Posted(request_id, pickled):
                    try:
                        engine.add(pickle.loads(pickled))
                    except RequestError as error:
                        connection.send([refusal(request_id, error)])
                    except Exception as cause:  # noqa: BLE001  the request ends, the engine goes on
                        connection.send([refusal(request_id, StepError.of(cause, "read the request"))])
        outputs = engine.step()
        _log_failures(outputs)
        if outputs:
            _send(connection, engine, outputs)


def _send(connection: Connection, engine: Engine | EncoderEngine, outputs: list[StepOutput]) -> None:
    """Where outputs cannot be written down together, those that can be are sent one by one, and the others end."""
    try:
        connection.send(outputs)
    except OSError:
        raise
    except Exception as cause:  # noqa: BLE001  the request ends, the engine goes on
        for output in outputs:
            if len(outputs) > 1:
                _send(connection, engine, [output])
            else:
                engine.abort(output.request_id)
                connection.send([refusal(output.request_id, StepError.of(cause, "send what it computed"))])


def _log_failures(outputs: list[StepOutput]) -> None:
    """The traceback stays here: it does not travel with an error. A step's requests share theirs."""
    told: set[int] = set()
    for output in outputs:
        if isinstance(output.error, StepError) and id(output.error) not in told:
            told.add(id(output.error))
            _log.error("%s", output.error.message, exc_info=output.error.__cause__)


def refusal(request_id: str, error: RequestError) -> StepOutput:
    """The only output of a request that never began."""
    return StepOutput(
        request_id=request_id,
        token_ids=(),
        text="",
        logprobs=(),
        prompt_logprobs=(),
        finish_reason="error",
        error=error,
        cached_prompt_tokens=0,
        seed=None,
    )
