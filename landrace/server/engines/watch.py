"""`Watch` and `Deaths`: when an engine's process is given up, and when its engine is."""

from __future__ import annotations

from collections import deque

from landrace.server.engines.messages import Beat

TICK_SECONDS = 1.0
"""How often a process is looked at."""
LATE_SECONDS = 5.0
"""A process that was not heard of for so long is told to be unwell."""
SILENT_SECONDS = 20.0
"""One that was not heard of for so long is given up, however long a step may take."""

MOST_DEATHS = 5
WINDOW_SECONDS = 600.0
"""An engine whose processes ended `MOST_DEATHS` times within so long is not started again."""
_LONGEST_PAUSE = 30.0


class Watch:
    """Tells whether a process hangs, from its beats.

    Time counts only while the watcher itself is awake: what stops both, such as a suspended terminal, is no hang of
    the process.
    """

    def __init__(self, now: float, step_seconds: float) -> None:
        """`now` is of a clock that never goes back, like that of `tick`."""
        self._step_seconds = step_seconds
        self._looked = now
        self._last: Beat | None = None
        self.silent = 0.0
        """Seconds since the process was heard of."""
        self.standing = 0.0
        """Seconds for which it has been at the same step."""

    def heard(self, beat: Beat) -> None:
        last, self._last = self._last, beat
        self.silent = 0.0
        if not beat.busy or last is None or beat.progress != last.progress:
            self.standing = 0.0

    def tick(self, now: float) -> None:
        passed = min(now - self._looked, 2 * TICK_SECONDS)
        self._looked = now
        self.silent += passed
        self.standing += passed

    @property
    def late(self) -> str | None:
        """How a process that does not beat as it should is unwell."""
        if self.silent < min(LATE_SECONDS, self._step_seconds):
            return None
        return f"was not heard of for {self.silent:.0f} seconds"

    @property
    def hang(self) -> str | None:
        """Why a process is to be given up."""
        if self.silent >= min(SILENT_SECONDS, self._step_seconds):
            return self.late
        if self.standing >= self._step_seconds:
            return f"was at one step for {self.standing:.0f} seconds"
        return None


class Deaths:
    """Those of one engine's processes. Times are of a clock that never goes back."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def note(self, now: float) -> bool:
        """Another one. False if there were too many."""
        self._times.append(now)
        while self._times[0] <= now - WINDOW_SECONDS:
            self._times.popleft()
        return len(self._times) < MOST_DEATHS

    @property
    def pause(self) -> float:
        """Seconds to wait before the next start: none after the first death, then longer each time."""
        repeated = len(self._times) - 1
        return min(2.0 ** (repeated - 1), _LONGEST_PAUSE) if repeated > 0 else 0.0
