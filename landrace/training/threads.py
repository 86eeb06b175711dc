"""How many CPU threads the next step takes: fewer while other programs use the processors.

Threads of a step wait for one another many times, and so for whatever took the processor of one of them. On a quiet
machine nothing is tried and nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

_TASKS = Path("/proc/self/task")
_DISTURBED = 0.1
"""Share of a step's time that its threads waited for a processor, from which fewer threads may be faster."""
_CLEARLY = 0.95
_FIRST_WAIT = 8
"""Steps from one trial to the next, doubled by every one in vain."""
_LONGEST_WAIT = 128


class ThreadChoice:
    """From step to step, as many threads of `most` as were fastest lately.

    `use` sets the count (torch's own, unless told otherwise). A step whose threads had to wait for a processor is
    followed by one with half of them, which stays if it is clearly faster; twice as many are tried again now and then.
    """

    def __init__(self, most: int | None = None, *, use: Callable[[int], None] = torch.set_num_threads) -> None:
        self.most = torch.get_num_threads() if most is None else most
        self.now = self.most
        self._use = use
        self._before: tuple[int, float] | None = None
        """During a trial: the count it may replace, and that count's seconds a token."""
        self._wait = _FIRST_WAIT
        self._steps_left = 0

    def report(self, seconds_a_token: float, waited: float) -> None:
        """How the last step went, `waited` being the share of its time that threads were kept from a processor."""
        if self._before is not None:
            self._judge(seconds_a_token)
        elif self._steps_left > 0:
            self._steps_left -= 1
        elif waited > _DISTURBED and self.now > 1:
            self._try(self.now // 2, seconds_a_token)
        elif self.now < self.most:
            self._try(min(self.most, 2 * self.now), seconds_a_token)

    def restore(self) -> None:
        """Back to all threads, for what comes after the run."""
        self._set(self.most)

    def _try(self, count: int, seconds_a_token: float) -> None:
        self._before = (self.now, seconds_a_token)
        self._set(count)

    def _judge(self, seconds_a_token: float) -> None:
        assert self._before is not None
        count, before = self._before
        self._before = None
        if seconds_a_token < _CLEARLY * before:
            self._wait = _FIRST_WAIT
        else:
            self._set(count)
            self._wait = min(_LONGEST_WAIT, 2 * self._wait)
        self._steps_left = self._wait

    def _set(self, count: int) -> None:
        if count != self.now:
            self._use(count)
        self.now = count


def waited_seconds() -> float:
    """Seconds that this process's threads were ready to run and had no processor, all of them together; 0 where the
    system does not tell (it does on Linux)."""
    total = 0
    for task in _TASKS.glob("*/schedstat"):
        try:
            total += int(task.read_text().split()[1])
        except (OSError, IndexError, ValueError):  # a thread that has just ended
            continue
    return total / 1e9
