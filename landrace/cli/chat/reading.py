"""What a user types: lines of several kinds of input, and messages of several lines."""

from __future__ import annotations

import sys
from typing import Protocol

PROMPT = "> "
GOES_ON = "  "
"""Before the further lines of a message."""
_QUOTES = '"""'


class LineDroppedError(Exception):
    """A Ctrl-C while something was typed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        """What had been typed."""


class Reader(Protocol):
    """Where messages come from. Raises EOFError at their end, and LineDroppedError."""

    def read(self) -> str:
        """The next message or command, as it was typed."""

    def read_result(self, name: str) -> str:
        """What a tool of this name has returned, as the user says; nothing: it has no result."""


def goes_on(text: str) -> bool:
    """Whether another line belongs to what was typed: after a backslash, or until the quotes are closed."""
    if text.startswith(_QUOTES):
        return len(text) < 2 * len(_QUOTES) or not text.rstrip().endswith(_QUOTES)
    return text.endswith("\\")


def with_line(text: str, line: str) -> str:
    """What was typed, with its next line."""
    return f"{text if text.startswith(_QUOTES) else text[:-1]}\n{line}"


def quoted(text: str) -> bool:
    """Whether it is a text within quotes, whatever it begins with there."""
    return text.startswith(_QUOTES)


def unquoted(text: str) -> str:
    """What stands between triple quotes; a text without them as it is."""
    if not quoted(text):
        return text
    inner = text.removeprefix(_QUOTES).rstrip()
    return inner.removesuffix(_QUOTES).strip("\n")


class LineReader:
    """Lines of a pipe, or of a terminal that knows no more than lines."""

    def __init__(self) -> None:
        self._typed = sys.stdin.isatty()

    def read(self) -> str:
        return self._read(PROMPT)

    def read_result(self, name: str) -> str:
        return self._read(f"{name}: ")

    def _read(self, prompt: str) -> str:
        text = self._line(prompt)
        while goes_on(text):
            try:
                text = with_line(text, self._line(GOES_ON))
            except EOFError:
                break
        return text

    def _line(self, prompt: str) -> str:
        if self._typed:
            # Standard output may be a file, which the answers are for.
            sys.stderr.write(prompt)
            sys.stderr.flush()
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt as interrupt:
            if not self._typed or type(interrupt) is not KeyboardInterrupt:
                raise
            sys.stderr.write("\n")
            raise LineDroppedError("") from None
        if not line:
            if self._typed:
                sys.stderr.write("\n")  # the shell's prompt begins a line of its own
            raise EOFError
        return line.removesuffix("\n").removesuffix("\r")
