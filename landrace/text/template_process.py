"""Chat templates in a process of their own, which can be stopped whatever they do."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from landrace.errors import CheckpointError, RequestError
from landrace.text import template_worker

MAX_CPU_SECONDS = 5.0
"""Processor time of one rendering; a conversation of 100,000 messages takes about a fifth of it."""
MAX_SECONDS = 30.0
"""Time on the clock of one rendering, for a machine that is too busy to give it its processor time."""
MAX_MEMORY = 1 << 30
MAX_TEXT = 32_000_000
"""Characters of one rendering."""

_WORKER = Path(template_worker.__file__)
_TRUST = "It comes with the model; use a copy of the model from a source you trust."


class TemplateStoppedError(CheckpointError):
    """A chat template went beyond its bounds."""


class TemplateProcess:
    """Renders the templates in `sources` (name to Jinja source), one job at a time; safe to share between threads.

    The process starts with the first job, and again after a job that it did not survive. It ends with this object.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = dict(sources)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_sources": self._sources}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["_sources"])  # type: ignore[misc]

    def render(self, name: str, variables: Mapping[str, Any], now: datetime) -> str:
        """The text the template writes of `variables`, which are plain JSON.

        Raises RequestError(field="messages") where the template refuses these messages or fails on them,
        CheckpointError where it cannot be compiled, and TemplateStoppedError where it goes beyond the bounds above.
        """
        job = pickle.dumps((name, dict(variables), now))
        with self._lock:
            ending, reason = self._run(job)
        if ending == template_worker.WRITTEN:
            return reason
        if ending == template_worker.REFUSED:
            raise RequestError(f"The chat template refuses these messages: {reason}", field="messages")
        if ending == template_worker.UNWRITABLE:
            raise RequestError(
                f"The chat template cannot write these messages: {reason}.",
                field="messages",
                hint="Check roles, their order, and the fields the model's template expects.",
            )
        if ending == template_worker.BROKEN:
            raise CheckpointError(f"The chat template is not valid: {reason}.", hint=_TRUST)
        raise TemplateStoppedError(f"The chat template was stopped: {reason}.", hint=_TRUST)

    def close(self) -> None:
        """Ends the process, whatever it is doing; the next rendering starts another."""
        process = self._process
        if process is not None:
            process.kill()

    def finish(self) -> None:
        """Ends the process as soon as it is at no job; the next rendering starts another."""
        with self._lock:
            self._end()

    def _run(self, job: bytes) -> tuple[bytes, str]:
        process = self._process or self._start()
        try:
            _send(process, job)
            payload = _receive(process, time.monotonic() + MAX_SECONDS)
        except TimeoutError:
            self._end()
            return template_worker.STOPPED, f"it runs for more than {MAX_SECONDS:.0f} seconds"
        except OSError:
            return template_worker.STOPPED, _cause(self._end())
        except BaseException:  # a half-read answer would be taken for that of the next job
            self._end()
            raise
        if payload[:1] == template_worker.STOPPED:
            self._end()  # what it holds is given back
        return payload[:1], payload[1:].decode("utf-8", "surrogatepass")

    def _start(self) -> subprocess.Popen[bytes]:
        # Without `site`, whose .pth files may import anything, and with this process's own way of finding packages.
        path = os.pathsep.join(entry for entry in sys.path if entry)
        process = subprocess.Popen(
            [sys.executable, "-S", "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            process_group=0,  # a Ctrl-C in the terminal is for this process to answer
            bufsize=0,
        )
        weakref.finalize(self, _kill, process)
        self._process = process
        _send(process, pickle.dumps((self._sources, MAX_CPU_SECONDS, MAX_MEMORY, MAX_TEXT)))
        return process

    def _end(self) -> int:
        """Ends the process; its exit status, negative for a signal."""
        process, self._process = self._process, None
        return 0 if process is None else _status(process)


def _status(process: subprocess.Popen[bytes]) -> int:
    """Ends the process. One that has ended by itself keeps the status that says why."""
    _close(process)
    try:
        return process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        return _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> int:
    """At once: a finalizer runs in the middle of anything, and an interrupt that comes while it waits is lost."""
    _close(process)
    process.kill()
    return process.wait()


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _cause(status: int) -> str:
    if status == -signal.SIGPROF:
        return f"it takes more than {MAX_CPU_SECONDS:.0f} seconds of processor time"
    return f"its process ended with status {status}"


def _send(process: subprocess.Popen[bytes], payload: bytes) -> None:
    assert process.stdin is not None
    data = memoryview(len(payload).to_bytes(4, "big") + payload)
    while data:
        data = data[process.stdin.write(data) :]


def _receive(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """The next frame. Raises TimeoutError, or EOFError as an OSError where the process ended."""
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    data = bytearray()
    size = 4
    while len(data) < size:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        piece = os.read(pipe, size - len(data))
        if not piece:
            raise BrokenPipeError
        data += piece
        if len(data) == 4 and size == 4:
            size += int.from_bytes(data, "big")
    return bytes(data[4:])
