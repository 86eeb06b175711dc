"""Starts the server and keeps it up until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from landrace.engine.options import EngineOptions
from landrace.errors import LandraceError, OptionError
from landrace.server.answering import ServedModel
from landrace.server.app import create_app
from landrace.server.engine_process import EngineProcess
from landrace.server.engine_worker import EngineSettings
from landrace.server.usage import UsageLog

_GARBAGE_THRESHOLDS = (10_000, 50, 100)
_SWITCH_SECONDS = 0.0005
"""How long the event loop waits for the interpreter's lock while a thread computes; it does so at every send."""
_SLOW_CLIENT_SECONDS = 5
"""After the drain, for clients to take what is still to be sent to them."""


def serve_models(
    models: Sequence[str],
    adapters: Mapping[str, Path],
    *,
    host: str,
    port: int,
    weights: str,
    kernels: str,
    threads: int | None,
    options: EngineOptions,
    max_pending: int,
    ledger: Path | None,
    drain_seconds: int,
    cors_origins: Sequence[str],
    announce: Callable[[str, Sequence[str]], None],
) -> None:
    """Serves until SIGINT, SIGTERM or SIGHUP; then takes no new call, lets the running ones finish, and returns.

    After `drain_seconds`, or at a second signal, what still runs is ended with an error. `adapters` (name to folder)
    belong to the first model. Pages of `cors_origins` may call the server from a browser. `announce` is called with the
    server's address, and what users should know about how the models are served, once it answers.
    Raises StoreError, CheckpointError, UnsupportedError, OptionError or DataError when it cannot start, and
    KeyboardInterrupt for a signal before that. Belongs to the main thread, where signals arrive.
    """
    served = _served_models(
        models,
        adapters,
        weights=weights,
        kernels=kernels,
        threads=threads,
        options=options,
        max_pending=max_pending,
    )
    listener = _bind(host, port)
    config = {
        "models": list(models),
        "adapters": {name: str(folder) for name, folder in adapters.items()},
        "weights": weights,
        "kernels": kernels,
        "threads": threads,
        "max_pending": max_pending,
        "engine": asdict(options),
    }
    usage_log = UsageLog(ledger, name=",".join(models), command=shlex.join(sys.argv), config=config)
    try:
        with listener:
            app = create_app(served, usage_log, cors_origins)
            asyncio.run(_serve(app, served, listener, host, drain_seconds, announce))
    except BaseException as error:
        usage_log.close("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    usage_log.close("finished")


async def _serve(
    app: FastAPI,
    served: Sequence[ServedModel],
    listener: socket.socket,
    host: str,
    drain_seconds: int,
    announce: Callable[[str, Sequence[str]], None],
) -> None:
    engines = list({id(model.engine): model.engine for model in served}.values())
    server = _Server(app, engines, drain_seconds)
    # While models open, every signal to end is what asyncio makes of a Ctrl-C: this task is cancelled and cleans up.
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.SIG_IGN:  # a shell's background job ignores Ctrl-C, and no more than that
        interrupt = signal.default_int_handler
    for number in _ending_signals():
        signal.signal(number, interrupt)
    # The lifespan is entered here rather than by uvicorn, so that a model that does not open is raised as it is.
    async with app.router.lifespan_context(app):
        # A collection of garbage stops every stream. It need not look at what is there now and stays, and it comes
        # after thousands of new objects, not hundreds: a body of 100,000 messages has many.
        gc.freeze()
        gc.set_threshold(*_GARBAGE_THRESHOLDS)
        sys.setswitchinterval(_SWITCH_SECONDS)
        _listen(listener)
        notices = dict.fromkeys(model.engine.notice for model in served if model.engine.notice)
        announce(f"http://{_shown(host)}:{listener.getsockname()[1]}", list(notices))
        await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn with signals of its own: the first drains, the second cuts the drain short, a third kills.

    uvicorn itself raises a signal again once it has stopped, which would end the process before the engines are
    stopped and the ledger is closed.
    """

    def __init__(self, app: FastAPI, engines: Sequence[EngineProcess], drain_seconds: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_level="warning",
                timeout_graceful_shutdown=drain_seconds + _SLOW_CLIENT_SECONDS,
            )
        )
        self._engines = engines
        self._drain_seconds = drain_seconds

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in _ending_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        loop = asyncio.get_running_loop()
        if not self.should_exit:
            self.should_exit = True
            loop.call_soon_threadsafe(loop.call_later, self._drain_seconds, self._cut)
            return
        loop.call_soon_threadsafe(self._cut)
        for number in _ending_signals():
            signal.signal(number, signal.SIG_DFL)

    def _cut(self) -> None:
        for engine in self._engines:
            engine.give_up("The server is stopping.")


def _ending_signals() -> list[signal.Signals]:
    """Ctrl-C, a service manager's SIGTERM, and the end of the terminal unless it is ignored, as under nohup."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def _served_models(
    models: Sequence[str],
    adapters: Mapping[str, Path],
    *,
    weights: str,
    kernels: str,
    threads: int | None,
    options: EngineOptions,
    max_pending: int,
) -> list[ServedModel]:
    served: list[ServedModel] = []
    for index, name in enumerate(models):
        own = adapters if index == 0 else {}
        settings = EngineSettings(name, own, weights, kernels, threads, options)
        engine = EngineProcess(settings, max_pending=max_pending)
        served.append(ServedModel(name, engine))
        served += [ServedModel(adapter, engine, adapter=adapter, parent=name) for adapter in own]
    names = [model.name for model in served]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise OptionError(f"Two models or adapters are called {twice[0]!r}.", hint="Give the adapter another name.")
    return served


def _bind(host: str, port: int) -> socket.socket:
    """A socket at the address, before any model is opened in vain."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OptionError(f"Cannot listen on {host}: {error.strerror}.", hint="Choose another with --host.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        listener.close()
        raise _port_error(address, error) from error
    return listener


def _listen(listener: socket.socket) -> None:
    try:
        listener.listen(128)
    except OSError as error:  # another process took the port in the meantime
        raise _port_error(listener.getsockname(), error) from error


def _port_error(address: Sequence[object], error: Exception) -> LandraceError:
    reason = error.strerror if isinstance(error, OSError) else "a port is a number from 0 to 65535"
    return OptionError(
        f"Cannot listen on {address[0]} port {address[1]}: {reason}.", hint="Choose another with --port; 0 finds one."
    )


def _shown(host: str) -> str:
    """The host as a client on this machine writes it."""
    if host in ("", "0.0.0.0", "::", "127.0.0.1", "::1"):
        return "localhost"
    return f"[{host}]" if ":" in host else host
