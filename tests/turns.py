"""What keeps a thread from its turn, told by processor time: other programs may take all the time they want."""

from __future__ import annotations

import time
from pathlib import Path

_OF_THIS_THREAD = Path("/proc/thread-self/schedstat")


class Turns:
    """One thread's. What keeps it is work of its own process: its own, or that of a thread which has the interpreter's
    lock."""

    def __init__(self) -> None:
        self._last = _used_and_awake()

    def tick(self) -> float:
        """Seconds for which the process kept the calling thread, since this was made or last called.

        The processor time of all its threads; no more than the time that this thread did not wait for a processor,
        since others may go on without it meanwhile.
        """
        before, self._last = self._last, _used_and_awake()
        return min(after - earlier for after, earlier in zip(self._last, before, strict=True))


def _used_and_awake() -> tuple[float, float]:
    try:
        waited = int(_OF_THIS_THREAD.read_text().split()[1]) / 1e9
    except (OSError, IndexError):  # only Linux tells
        waited = 0.0
    return time.process_time(), time.perf_counter() - waited
