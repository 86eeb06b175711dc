"""`Heartbeat`: tells the other end of the pipe, once a second, that an engine's process runs and how far it came."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path

from landrace.engine.facts import EngineFacts
from landrace.server.engines.messages import Beat, ProcessFacts

BEAT_SECONDS = 1.0


class Heartbeat:
    """A thread of the engine's process. The main thread sets `busy` and counts `progress`, which `Beat` explains.

    It needs the interpreter's lock for an instant: steps on the C++ kernels and PyTorch's operations give it away.
    """

    def __init__(self, send: Callable[[Beat], None], facts: Callable[[], EngineFacts]) -> None:
        self.busy = False
        self.progress = 0
        self._send = send
        self._facts = facts
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                self._send(Beat(self.progress, self.busy, ProcessFacts(self._facts(), resident_bytes())))
                if self._ending.wait(BEAT_SECONDS):
                    return
        except OSError:  # the other end is gone, and the main thread ends
            return


def resident_bytes() -> int:
    """Memory of this process: what it has now on Linux, elsewhere the most it had."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
