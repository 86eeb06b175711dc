"""How a command ends before its time: signals, a reader of its output that went away, and their exit statuses."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
READER_GONE = 128 + signal.SIGPIPE
"""What a shell reports of a program that wrote to a closed pipe."""


_AGAIN_SECONDS = 0.01
_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP: cleaned up after like a Ctrl-C, but nothing goes on afterwards, a chat neither."""


class Endings:
    """Turns SIGINT into KeyboardInterrupt and SIGTERM and SIGHUP into `Ended`, and remembers which it was.

    A signal that comes while a module is imported waits until it is: libraries lose an exception there, or abort on it.
    A signal that is ignored already, as under nohup, stays ignored.
    """

    def __init__(self) -> None:
        self._last: int = signal.SIGINT
        self.waiting = False
        """A signal came, and no exception of it yet."""

    def install(self) -> None:
        signal.signal(signal.SIGALRM, self._again)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._last = number
        self.waiting = _importing(frame)
        if self.waiting:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
            return
        raise KeyboardInterrupt if number == signal.SIGINT else Ended

    def _again(self, number: int, frame: FrameType | None) -> None:
        self._take(self._last, frame)

    @property
    def status(self) -> int:
        """The exit status after an interrupt."""
        return 128 + self._last


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT_SYSTEM:
            return True
        frame = frame.f_back
    return False


@contextmanager
def interrupts_noted() -> Iterator[Callable[[], bool]]:
    """Within, a Ctrl-C interrupts nothing; the function given says whether one came. None comes where it is
    ignored."""
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt_as_asyncio_expects() -> None:
    """Python's own handler for Ctrl-C, which `asyncio.run` replaces by one that cancels; any other it leaves alone."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def came_of(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether an error is of this kind, or was raised on account of one that is; libraries turn one into the other."""
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False


def close_quietly(status: int) -> int:
    """The last thing of a command: from here no signal interrupts it. Returns the exit status, which is another one
    where the last words found no reader."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = READER_GONE
    if status == READER_GONE:
        # Python writes out what is left when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return status
