"""`ps`, `stop`: the servers that run on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from landrace.checkpoints.store import default_home
from landrace.cli.console import err, human_bytes, print_json, print_table, styled
from landrace.errors import LandraceError, OptionError
from landrace.server.running import RunningServer, running_servers

_LOOK_SECONDS = 0.1
_SECOND_SIGNAL = 0.5
"""Seconds until a server has surely taken the first."""
_ENDING_SECONDS = 30
"""Beside the drain: for clients that are slow, and to close the engines."""


def ps(json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False) -> None:
    """List the servers that run on this machine, and their models."""
    servers = running_servers(default_home())
    if json:
        print_json([asdict(server) for server in servers])
        return
    if not servers:
        err.print("No server runs. Start one with: landrace serve smollm2")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("address", "pid", "since", "model", "state", "memory", "running", "waiting", "adapters"):
        table.add_column(column, justify="right" if column in ("pid", "memory", "running", "waiting") else "left")
    for server in servers:
        since = datetime.fromtimestamp(server.since).strftime("%Y-%m-%d %H:%M")
        own = (server.url, str(server.pid), "stopping" if server.stopping else since)
        for model in server.models:
            memory = human_bytes(model.memory_bytes) if model.memory_bytes else ""
            adapters = ", ".join(model.adapters)
            row = (model.name, model.state, memory, str(model.running), str(model.waiting), adapters)
            table.add_row(*own, *row)
            own = ("", "", "")
    print_table(table)


def stop(
    which: Annotated[
        str | None,
        typer.Argument(
            help="A server's address, port or pid, the name of a model of it, or all; default: the only one."
        ),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="End running requests instead of letting them finish.")] = False,
) -> None:
    """Stop servers of this machine: they take no new calls, let the running ones finish, and end."""
    servers = chosen(running_servers(default_home()), which)
    for server in servers:
        _tell(server)
        requests = sum(model.running + model.waiting for model in server.models)
        waits = f" It has {requests} request{'' if requests == 1 else 's'} to finish." if requests and not now else ""
        err.print(styled("Stopping ", (server.url, "bold"), f" (process {server.pid}).{waits}"))
    if now and servers:
        time.sleep(_SECOND_SIGNAL)
        for server in servers:
            _tell(server)
    for server in servers:
        _wait(server)


def chosen(servers: Sequence[RunningServer], which: str | None) -> list[RunningServer]:
    """Those that are meant. Raises OptionError where none is, or several might be."""
    if which == "all":
        return list(servers)
    told = ", ".join(f"{server.url} (process {server.pid})" for server in servers)
    has = f"These run: {told}." if servers else "No server runs on this machine."
    found = list(servers) if which is None else [server for server in servers if _is_meant(server, which)]
    if not found:
        raise OptionError("There is no server to stop." if which is None else f"No server is {which!r}.", hint=has)
    if len(found) > 1:
        raise OptionError("Several servers could be meant.", hint=f"{has} Name one by its address, or all.")
    return found


def _is_meant(server: RunningServer, which: str) -> bool:
    address = server.url.partition("://")[2]
    told = which.partition("://")[2] or which
    told = told.removesuffix("/").removesuffix("/v1")
    port = address.rpartition(":")[2]
    own = {address, port, str(server.pid), f":{port}", f"127.0.0.1:{port}"}
    names = {name for model in server.models for name in (model.name, *model.adapters)}
    return told in own or which in names


def _tell(server: RunningServer) -> None:
    try:
        server.tell_to_stop()
    except ProcessLookupError:  # it has just ended
        return
    except PermissionError as error:
        raise LandraceError(f"The server of process {server.pid} is another user's.") from error


def _wait(server: RunningServer) -> None:
    deadline = time.monotonic() + server.drain_seconds + _ENDING_SECONDS
    while server.runs:
        if time.monotonic() > deadline:
            raise LandraceError(
                f"{server.url} has not stopped within {server.drain_seconds + _ENDING_SECONDS} seconds.",
                hint=f"Its log says what it waits for. The last resort is `kill -9 {server.pid}`.",
            )
        time.sleep(_LOOK_SECONDS)
    err.print(styled((server.url, "bold"), " has stopped."))
