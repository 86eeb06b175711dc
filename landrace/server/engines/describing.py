"""What models need and can do, told from their files by a process that ends when it has told."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from landrace.errors import LandraceError
from landrace.server.engines.messages import EngineSettings
from landrace.server.logs.lines import start_logging

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_SHARE = 0.9
"""Of the machine's memory, what models may take unless told otherwise."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Description:
    """A model that is not open."""

    n_bytes: int
    """Of memory, that an engine on it takes at most, as far as its files tell."""
    max_length: int
    """Tokens of the longest sequence that will be served."""
    capabilities: tuple[str, ...]
    """What it can be asked for, in the words of the API."""


@dataclass(frozen=True)
class Described:
    """What the process tells: of each model a description, or what is wrong with it."""

    memory: int
    """Bytes that this machine has for models: of the graphics processor where they would be computed there."""
    in_main_memory: bool
    models: tuple[Description | LandraceError, ...]


async def describe(settings: Sequence[EngineSettings]) -> Described:
    """Of the models in this order. Reads no weights. Cancelled, it leaves no process behind."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(theirs, settings), name="describing models", daemon=True)
    process.start()
    theirs.close()
    try:
        told: Described = await asyncio.to_thread(ours.recv)
    except EOFError as error:
        raise LandraceError("The process that reads what the models need has ended without an answer.") from error
    finally:
        process.kill()
        await asyncio.to_thread(process.join)
    return told


def usual_share(memory: int) -> int:
    """What models may take of so much memory where nobody says how much."""
    return int(memory * _SHARE)


def main_memory() -> int:
    """Bytes that this machine has, or that its container allows."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (file.read_text().strip() for file in _CGROUP_LIMITS if file.is_file())
    return min(total, *(int(limit) for limit in limits if limit.isdecimal()))


def _tell(connection: Connection, settings: Sequence[EngineSettings]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the server decides when to stop
        signal.signal(number, signal.SIG_IGN)
    start_logging(settings[0].log_format)

    from landrace.server.engines.estimate import description, device_memory

    models: list[Description | LandraceError] = []
    for one in settings:
        try:
            models.append(description(one))
        except LandraceError as error:
            models.append(error)
        except Exception as error:  # noqa: BLE001  told as what the model's own errors are
            _log.exception("What %s needs could not be told.", one.model)
            models.append(LandraceError(f"{one.model} could not be opened: {type(error).__name__}: {error}"))
    on_device = device_memory(settings[0].kernels)
    connection.send(Described(main_memory() if on_device is None else on_device, on_device is None, tuple(models)))
