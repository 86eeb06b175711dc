"""How a command ends before its time: signals, a reader of its output that went away, and their exit statuses."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
READER_GONE = 128 + signal.SIGPIPE
"""What a shell reports of a program that wrote to a closed pipe."""


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP: cleaned up after like a Ctrl-C, but nothing goes on afterwards, a chat neither."""


class Endings:
    """Turns SIGTERM and SIGHUP into `Ended`, and remembers which it was.

    A signal that is ignored already, as under nohup, stays ignored. Ctrl-C is Python's own KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self._signal: int | None = None

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._end)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        raise Ended

    @property
    def status(self) -> int:
        """The exit status after an interrupt."""
        return INTERRUPTED if self._signal is None else 128 + self._signal


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
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = READER_GONE
    if status == READER_GONE:
        # Python writes out what is left when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return status
