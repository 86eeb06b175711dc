"""Starts the server and keeps it up until it is told to stop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import uvicorn

from landrace.checkpoints import open_checkpoint
from landrace.checkpoints.store import ModelStore, default_home
from landrace.engine.options import EngineOptions
from landrace.errors import LandraceError, OptionError
from landrace.model import open_tokenizer
from landrace.server.app import ServedModel, create_app
from landrace.server.engine_process import EngineProcess, EngineSettings
from landrace.server.usage import UsageLog


def serve_models(
    models: list[str],
    adapters: Mapping[str, Path],
    *,
    host: str,
    port: int,
    dtype: str,
    threads: int | None,
    options: EngineOptions,
    ledger: Path | None,
    drain_seconds: int,
    announce: Callable[[str], None],
) -> None:
    """Serves until SIGINT or SIGTERM; then takes no new call, lets the running ones finish, and returns.

    Raises StoreError, CheckpointError, UnsupportedError or OptionError when it cannot start.
    """
    served = _served_models(models, adapters, dtype=dtype, threads=threads, options=options)
    listener = _listen(host, port)
    app = create_app(served, UsageLog(ledger))
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=drain_seconds, lifespan="off")
    server = uvicorn.Server(config)
    bound = listener.getsockname()[1]
    url = f"http://{'localhost' if host in ('127.0.0.1', '0.0.0.0') else host}:{bound}"

    async def main() -> None:
        # The lifespan is entered here rather than by uvicorn, so that a model that does not open is raised as it is.
        async with app.router.lifespan_context(app):
            announce(url)
            await server.serve(sockets=[listener])

    asyncio.run(main())


def _served_models(
    models: list[str], adapters: Mapping[str, Path], *, dtype: str, threads: int | None, options: EngineOptions
) -> list[ServedModel]:
    store = ModelStore(default_home())
    served: list[ServedModel] = []
    for index, name in enumerate(models):
        tokenizer = open_tokenizer(open_checkpoint(store.resolve(name)))
        own = adapters if index == 0 else {}
        engine = EngineProcess(EngineSettings(name, own, dtype, threads, options))
        served.append(ServedModel(name, engine, tokenizer))
        served += [ServedModel(adapter, engine, tokenizer, adapter=adapter, parent=name) for adapter in own]
    names = [model.name for model in served]
    if len(set(names)) < len(names):
        raise OptionError(f"Two models or adapters have the same name among {', '.join(names)}.")
    return served


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        raise LandraceError(
            f"Cannot listen on {host} port {port}: {error.strerror}.", hint="Choose another with --port."
        ) from error
    listener.listen(128)
    return listener
