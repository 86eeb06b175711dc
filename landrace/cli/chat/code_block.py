"""A fenced block of code, line by line in the colours of its language."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from rich.style import Style
from rich.syntax import ANSI_DARK

from landrace.cli.chat.inline import PLAIN, Span

if TYPE_CHECKING:
    from pygments.lexer import Lexer

_LOOKED_BACK = 100
"""Lines before the next that say what it is, such as the middle of a comment."""
FENCE = Style(dim=True)


class CodeBlock:
    """The lines between two fences."""

    def __init__(self, opening: str) -> None:
        """`opening`: the line that opens it, such as three backquotes and `python`."""
        bare = opening.strip()
        self._mark = bare[: len(bare) - len(bare.lstrip(bare[0]))]
        self._lexer = _lexer(bare[len(self._mark) :].strip())
        self._before: deque[str] = deque(maxlen=_LOOKED_BACK)

    def closes(self, line: str) -> bool:
        """Whether this line ends the block."""
        bare = line.strip()
        return len(bare) >= len(self._mark) and set(bare) == {self._mark[0]}

    def line(self, text: str) -> list[Span]:
        """The next line in its colours."""
        if self._lexer is None:
            return [(text, PLAIN)]
        before = "".join(f"{line}\n" for line in self._before)
        self._before.append(text)
        found: list[Span] = []
        for at, kind, value in self._lexer.get_tokens_unprocessed(before + text):
            piece = value[max(0, len(before) - at) :]
            if piece:
                found.append((piece, _style(kind)))
        # A lexer may end with a line break of its own.
        return found if "".join(piece for piece, _ in found) == text else [(text, PLAIN)]


def _lexer(info: str) -> Lexer | None:
    """By the first word after the fence; None for a language that nobody knows."""
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    words = info.replace("{", " ").replace("}", " ").replace(",", " ").split()
    if not words:
        return None
    try:
        return get_lexer_by_name(words[0].lstrip(".").lower())
    except ClassNotFound:
        return None


def _style(kind: Any) -> Style:
    """Of the nearest kind of token above that has a colour; the terminal's own palette."""
    while kind is not None:
        if kind in ANSI_DARK:
            return ANSI_DARK[kind]
        kind = kind.parent
    return PLAIN
