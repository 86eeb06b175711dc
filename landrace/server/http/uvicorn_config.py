"""uvicorn as this server runs it."""

from __future__ import annotations

import ssl
import sys
from functools import partial
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from landrace.errors import OptionError
from landrace.server.http.bounds import Bounds
from landrace.server.http.connection import Connection

_OTHER_FILES = 256
"""Of models, pipes, ledgers, libraries."""


def uvicorn_config(app: FastAPI, bounds: Bounds, tls: ssl.SSLContext | None, *, drain_seconds: float) -> uvicorn.Config:
    """Connections keep to `bounds`, and what a proxy says about its clients is not believed."""
    turned_away: set[Connection] = set()
    return uvicorn.Config(
        app,
        http=partial(Connection, bounds=bounds, turned_away=turned_away),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,  # `logs/lines.py` has it
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=bounds.idle_seconds,  # type: ignore[arg-type]
        timeout_graceful_shutdown=drain_seconds,  # type: ignore[arg-type]
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
    )


def make_room(bounds: Bounds) -> None:
    """Lets the process have as many files open as its connections may need, those turned away included: without room an
    engine could not be started again. Raises OptionError where the system allows fewer."""
    if sys.platform == "win32":  # where there is no such limit
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * bounds.connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise OptionError(
            f"{bounds.connections} connections need {needed} open files, and this process may have {hard}.",
            hint="Raise the limit (ulimit -n), or give fewer --max-connections.",
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def tls_context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """What encrypts connections; None without a certificate. Raises OptionError."""
    if cert is None:
        if key is not None:
            raise OptionError("--tls-key is given without --tls-cert.")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A passphrase is not asked for: a server starts without anybody at its terminal.
        context.load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        files = f"{cert}" if key is None else f"{cert} with the key {key}"
        raise OptionError(
            f"The certificate {files} cannot be used: {reason}.",
            hint="Both are PEM files, and the key has no passphrase.",
        ) from error
    return context
