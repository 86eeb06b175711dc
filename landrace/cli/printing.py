"""Prints an answer as it comes: thoughts apart from what is said."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from landrace.safe_text import ShownStream

if TYPE_CHECKING:
    from landrace.engine import StepOutput

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_BORDER = "\n\n---\n\n"
"""Between thought and answer, where there is no terminal to show them apart."""


class AnswerPrinter:
    """Writes what a step brought to standard output: made visible for a terminal, as it is for a file or a pipe."""

    def __init__(self, *, raw: bool) -> None:
        """`raw`: what comes is text, and no answer to a chat."""
        self._raw = raw
        terminal = sys.stdout.isatty()
        self._as_shown: Callable[[str], str] = ShownStream() if terminal else str
        self._before, self._after = (_DIM, f"{_PLAIN}\n\n") if terminal else ("", _BORDER)
        self._in_thought = False

    def __call__(self, output: StepOutput) -> None:
        from landrace.text.answers import Parts

        parts = Parts("", output.text, ()) if self._raw else Parts.of(output.events)
        for text, thought in ((parts.reasoning, True), (parts.content, False)):
            if text:
                self._write(text, thought=thought)
        sys.stdout.flush()

    def end(self) -> None:
        """Nothing more comes."""
        if self._in_thought:
            sys.stdout.write(self._after.removesuffix("\n\n"))
            self._in_thought = False

    def _write(self, text: str, *, thought: bool) -> None:
        if thought != self._in_thought:
            sys.stdout.write(self._before if thought else self._after)
            self._in_thought = thought
        sys.stdout.write(self._as_shown(text))
