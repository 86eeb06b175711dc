"""Starts the server and keeps it up until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import shlex
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import uvicorn
import uvloop
from fastapi import FastAPI

from landrace.checkpoints.store import default_home
from landrace.errors import LandraceError, OptionError
from landrace.ledger import Ledger
from landrace.ledger.place import without_passwords
from landrace.ledger.records import RunStatus
from landrace.server.access.keys import KeyDesk
from landrace.server.access.requirement import keys_needed
from landrace.server.app import create_app
from landrace.server.edge import Edge
from landrace.server.engines.hosted import Hosted
from landrace.server.engines.messages import EngineSettings
from landrace.server.engines.opener import Opener
from landrace.server.engines.registry import Registry
from landrace.server.feedback.keeper import Keeper
from landrace.server.http.host_names import HostRule
from landrace.server.http.uvicorn_config import make_room, tls_context, uvicorn_config
from landrace.server.jobs.jobs import Jobs
from landrace.server.logs.lines import logging_to_stderr
from landrace.server.logs.redaction import Redactor
from landrace.server.logs.tellers import call_watch
from landrace.server.options import ServeOptions
from landrace.server.presence import present
from landrace.server.serving import Serving
from landrace.server.systemd import ServiceManager
from landrace.server.usage import UsageLog

_GARBAGE_THRESHOLDS = (10_000, 50, 100)
_SWITCH_SECONDS = 0.0005
"""How long the event loop waits for the interpreter's lock while a thread computes; it does so at every send."""
_SLOW_CLIENT_SECONDS = 5
"""After the drain, for clients to take what is still to be sent to them."""


def serve_models(options: ServeOptions, announce: Callable[[str, Sequence[str]], None]) -> None:
    """Serves until SIGINT, SIGTERM or SIGHUP; then takes no new call, lets the running ones finish, and returns.

    `announce` is called with the server's address, and what users should know about how the models are served, once it
    answers. Raises StoreError, CheckpointError, UnsupportedError, OptionError or DataError when it cannot start,
    KeyboardInterrupt for a signal before that, and LandraceError when an engine cannot be kept up. Belongs to the main
    thread, where signals arrive.
    """
    with logging_to_stderr(options.logs.format):
        _serve_models(options, announce)


def _serve_models(options: ServeOptions, announce: Callable[[str, Sequence[str]], None]) -> None:
    redact = None if options.logs.redact is None else Redactor.load(options.logs.redact)
    tls = tls_context(options.tls_cert, options.tls_key)
    make_room(options.bounds)
    hosts = HostRule.of(options.host, options.allowed_hosts)
    registry = _registry(options)
    listener = _bind(options.host, options.port)
    jobs = None if options.data is None else Jobs(options.data, registry, tuning_threads=options.tuning_threads)
    usage_log = UsageLog(
        options.ledger,
        name=",".join(options.models),
        command=shlex.join(map(without_passwords, sys.argv)),
        config=options.as_json(),
        price_per_hour=options.price_per_hour,
        spill=options.usage_spill,
    )
    try:
        with listener:
            book = usage_log.ledger
            asked = keys_needed(options.keys, listener.getsockname()[0], None if book is None else book.keys)
            desk = KeyDesk(book) if asked and book is not None else None
            watch = call_watch(options.logs, listener.getsockname()[0], redact)
            edge = Edge(hosts, desk, options.price_per_hour, options.bounds, watch, options.cors_origins)
            keeper = _keeper(options, redact)
            serving = Serving(
                registry,
                usage_log,
                options.price_per_hour,
                options.adapter_folder,
                keeper=keeper,
                jobs=jobs,
                options=options.as_json(),
            )
            app = create_app(serving, edge)
            ending = uvloop.run(_serve(app, registry, listener, tls, options, announce))
    except BaseException as error:
        usage_log.close("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    usage_log.close(ending)


def _keeper(options: ServeOptions, redact: Redactor | None) -> Keeper | None:
    if options.ledger is None:
        if options.keep_conversations:
            raise OptionError("Conversations are kept in a ledger.", hint="Name one with --ledger.")
        return None
    return Keeper(Ledger(options.ledger), keeps_conversations=options.keep_conversations, redact=redact)


async def _serve(
    app: FastAPI,
    registry: Registry,
    listener: socket.socket,
    tls: ssl.SSLContext | None,
    options: ServeOptions,
    announce: Callable[[str, Sequence[str]], None],
) -> RunStatus:
    """How the run ended: finished, or interrupted where answers were cut off."""
    config = uvicorn_config(app, options.bounds, tls, drain_seconds=options.drain_seconds + _SLOW_CLIENT_SECONDS)
    server = _Server(config, registry, options.drain_seconds)
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
        notices = dict.fromkeys(engine.notice for engine in registry.engines if engine.notice)
        scheme = "http" if tls is None else "https"
        url = f"{scheme}://{_shown(options.host)}:{listener.getsockname()[1]}"
        async with (
            present(default_home(), url, options.drain_seconds, registry, lambda: server.should_exit),
            ServiceManager().told(registry, lambda: server.should_exit),
        ):
            announce(url, list(notices))
            await server.serve(sockets=[listener])
    if server.failure is not None:
        raise LandraceError(server.failure, hint="The log above says what came before.")
    return "interrupted" if server.was_cut else "finished"


class _Server(uvicorn.Server):
    """uvicorn with signals of its own: the first drains, the second cuts the drain short, a third kills.

    uvicorn itself raises a signal again once it has stopped, which would end the process before the engines are
    stopped and the ledger is closed.
    """

    def __init__(self, config: uvicorn.Config, registry: Registry, drain_seconds: int) -> None:
        super().__init__(config)
        self._registry = registry
        self._drain_seconds = drain_seconds
        self.failure: str | None = None
        """Why an engine was given up, which ends the server as a signal does."""
        self.was_cut = False
        """Whether requests were ended that still ran."""

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
            loop.call_soon_threadsafe(self._drain)
            return
        loop.call_soon_threadsafe(self._cut)
        for number in _ending_signals():
            signal.signal(number, signal.SIG_DFL)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn calls this ten times a second while it serves."""
        self.failure = next((engine.failure for engine in self._registry.engines if engine.failure), None)
        if self.failure is not None and not self.should_exit:
            self.should_exit = True
            self._drain()
        return await super().on_tick(counter)

    def _drain(self) -> None:
        asyncio.get_running_loop().call_later(self._drain_seconds, self._cut)

    def _cut(self) -> None:
        self.was_cut = any(engine.unfinished for engine in self._registry.engines)
        self._registry.give_up("The server is stopping.")


def _ending_signals() -> list[signal.Signals]:
    """Ctrl-C, a service manager's SIGTERM, and the end of the terminal unless it is ignored, as under nohup."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def _registry(options: ServeOptions) -> Registry:
    opener = Opener(on_demand=options.on_demand, memory=options.memory, wait_seconds=options.wait_seconds)
    models = []
    for index, name in enumerate(options.models):
        own = options.adapters if index == 0 else {}
        settings = EngineSettings(
            name,
            own,
            options.weights,
            options.kernels,
            options.threads,
            options.engine,
            options.step_seconds,
            options.logs.format,
        )
        models.append(Hosted(settings, max_pending=options.max_pending))
    return Registry(models, opener, options.aliases)


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
