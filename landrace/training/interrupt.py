"""Ctrl-C or another signal to end during training: finish the step under way, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any


class TuneInterrupted(KeyboardInterrupt):
    """Training was stopped from outside after `step` steps; `checkpoint` continues it."""

    def __init__(self, step: int, total_steps: int, checkpoint: Path) -> None:
        self.step = step
        self.checkpoint = checkpoint
        self.message = f"Stopped after step {step} of {total_steps}; everything so far is in {checkpoint}."
        self.hint = "Run the same command with --resume (in Python: resume=True) to continue."
        super().__init__(f"{self.message} {self.hint}")


class InterruptGuard:
    """While entered, the first SIGINT, SIGTERM or SIGHUP only sets `requested`; a second one interrupts at once.

    Signals can be taken in the main thread only; elsewhere nothing is changed.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> InterruptGuard:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
