"""The engine's own process: opens the model, then steps for as long as there is work."""

from __future__ import annotations

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
from landrace.errors import LandraceError, RequestError

if TYPE_CHECKING:
    from landrace.engine.engine import Engine
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
    tokenizer: Tokenizer
    notice: str | None
    """What the user should know about how it is served."""


@dataclass(frozen=True)
class Failed:
    """The model could not be opened."""

    error: LandraceError


@dataclass(frozen=True)
class Abort:
    """The client of a request is gone."""

    request_id: str


@dataclass(frozen=True)
class Stop:
    """End the process."""


_TAKING_SECONDS = 0.02
"""How long new requests are taken before the running ones get their next step."""

ToWorker = Request | Abort | Stop
FromWorker = Ready | Failed | list[StepOutput]


def run_worker(connection: Connection, settings: EngineSettings) -> None:
    """The process's whole life. It ends on `Stop`, when the model does not open, or with the process at the other end
    of the pipe, however that one ended."""
    # The HTTP side decides when to stop: a Ctrl-C or a service manager's SIGTERM reaches the whole group at once, and
    # running answers are to be finished first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    from landrace.model import open_engine

    try:
        opened = open_engine(
            settings.model,
            adapters=settings.adapters,
            weights=settings.weights,
            kernels=settings.kernels,
            threads=settings.threads,
            options=settings.options,
        )
        opened.model.tokenizer.warm_up()  # it travels with what it knows
        first: FromWorker = Ready(opened.engine.max_length, opened.model.tokenizer, opened.notice)
    except LandraceError as error:
        first = Failed(error)
    try:
        connection.send(first)
        if isinstance(first, Ready):
            _work(connection, opened.engine)
    except (EOFError, OSError):  # the other end of the pipe is gone
        return


def _work(connection: Connection, engine: Engine) -> None:
    while True:
        step_due = time.monotonic() + _TAKING_SECONDS
        while not engine.has_work or (time.monotonic() < step_due and connection.poll()):
            message: ToWorker = connection.recv()
            match message:
                case Stop():
                    return
                case Abort(request_id):
                    engine.abort(request_id)
                case Request():
                    try:
                        engine.add(message)
                    except RequestError as error:
                        connection.send([_refusal(message.id, error)])
        outputs = engine.step()
        if outputs:
            connection.send(outputs)


def _refusal(request_id: str, error: RequestError) -> StepOutput:
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
