"""The command on a pseudo-terminal: what it shows, what is typed, how it ends."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path

from patience import SECONDS


def as_from_a_shell() -> None:
    """In the child: a Ctrl-C counts, also where the tests run in the background and ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """The command on a pseudo-terminal of its own: what it shows, what is typed, how it ends."""

    def __init__(self, *arguments: str, home: Path, **environment: str) -> None:
        self.shown = b""
        self._seen = 0
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            given = {"LANDRACE_HOME": str(home), "COLUMNS": "200", "OMP_NUM_THREADS": "1", "TERM": "xterm"}
            as_from_a_shell()
            os.execve(sys.executable, [sys.executable, "-m", "landrace", *arguments], os.environ | given | environment)

    def wait_for(self, text: str) -> None:
        """Reads until `text` is shown, after what was waited for before."""
        deadline = time.monotonic() + SECONDS
        while (at := self.shown.find(text.encode(), self._seen)) < 0:
            assert time.monotonic() < deadline, self.shown
            assert self._read(), self.shown
        self._seen = at + len(text.encode())

    def wait_for_prompt(self) -> None:
        """Reads until the chat waits for a line: it has asked that what is pasted is marked, and shown its hint."""
        self.wait_for("\x1b[?2004h")
        self.wait_for("or /help")

    def type(self, text: str) -> None:
        left = text.encode()
        while left:  # a terminal takes a few kilobytes at a time, and shows some before it takes more
            _, ready, _ = select.select([self._fd], [self._fd], [], SECONDS)
            if ready:
                left = left[os.write(self._fd, left[:1024]) :]
            elif not self._read():
                return

    def resize(self, columns: int, rows: int = 24) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.kill(signal.SIGWINCH)

    def hang_up(self) -> None:
        """Closes the terminal, as its window does."""
        os.close(self._fd)

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self) -> int:
        """Reads to the end, and returns the exit status; minus the signal when one killed it."""
        while self._read():
            pass
        os.close(self._fd)
        return self.ended()

    def ended(self) -> int:
        """Waits for the end of a terminal that nobody reads any more."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._fd], [], [], SECONDS)
        assert ready, self.shown
        try:
            piece = os.read(self._fd, 65536)
        except OSError:  # Linux's end of a terminal
            return False
        self.shown += piece
        return bool(piece)
