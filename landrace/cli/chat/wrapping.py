"""Styled text on a terminal, word by word. Nothing that was put there is touched again, so that nothing flickers and a
terminal may change its size in the middle of a text."""

from __future__ import annotations

import re
from collections.abc import Callable

from rich.cells import cell_len
from rich.style import Style

from landrace.cli.chat.inline import PLAIN, Span

Put = Callable[[str, Style], None]

_UNSPACED = "\u0e00-\u109f\u1780-\u17ff\u2e80-\u30ff\u3100-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003fffd"
"""Thai to Burmese, Khmer, Chinese and Japanese: written without spaces. (Korean has them.)"""
_STAYS = "\u3001\u3002\u3009\u300b\u300d\u300f\u3011\u3015\uff01\uff09\uff0c\uff0e\uff1a\uff1b\uff1f\uff5d\u30fc"
"""Punctuation that begins no line."""
_MARKS = "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u17b4-\u17d3\u200b-\u200d"
"""Signs that belong to the character before them."""
_PIECES = re.compile(rf"\s+|[{_UNSPACED}][{_MARKS}{_STAYS}]*|[^\s{_UNSPACED}]+")
_TAB = "    "


class WrappedText:
    """Begins a new line where the next word has no room."""

    def __init__(self, put: Put, width: Callable[[], int]) -> None:
        """`width`: of the terminal in columns, as it is now."""
        self._put, self._width = put, width
        self._column = 0
        self._gap: list[Span] = []
        self._word: list[Span] = []
        self._hanging: Span = ("", PLAIN)

    @property
    def column(self) -> int:
        """Where the next character goes, words that are held back left out."""
        return self._column

    def hang(self, text: str, style: Style = PLAIN) -> None:
        """What a line begins with that a long one is continued on."""
        self._hanging = (text, style)

    def write(self, text: str, style: Style = PLAIN) -> None:
        """Text without line breaks. The last word of it is held back until it is known to be whole."""
        for match in _PIECES.finditer(text):
            piece = match[0]
            if piece.isspace():
                self._end_word()
                self._gap.append((piece.replace("\t", _TAB), style))
                continue
            if self._word and self._may_part(piece):
                self._end_word()
            self._word.append((piece, style))
            if sum(cell_len(part) for part, _ in self._word) >= self._width():
                self._end_word()

    def line(self) -> None:
        """Ends the line."""
        self._end_word()
        self._gap.clear()  # at the end of a line, white space is nothing
        self._put("\n", PLAIN)
        self._column = 0

    def end(self) -> None:
        """Puts what was held back."""
        self._end_word()
        self._gap.clear()

    def _may_part(self, piece: str) -> bool:
        """Whether a line may end between the word so far and `piece`."""
        last = self._word[-1][0][-1]
        if re.match(f"[{_STAYS}{_MARKS}]", piece):
            return False
        return bool(re.match(f"[{_UNSPACED}]", last) or re.match(f"[{_UNSPACED}]", piece))

    def _end_word(self) -> None:
        if not self._word:
            return
        word, self._word = self._word, []
        gap, self._gap = self._gap, []
        size, between = (sum(cell_len(text) for text, _ in part) for part in (word, gap))
        hanging = self._hanging[0]
        if self._column > cell_len(hanging) and self._column + between + size > self._width():
            self._put("\n", PLAIN)
            self._column, gap = 0, []
            if hanging:
                self._emit([self._hanging])
        self._emit([*gap, *word])
        # What is wider than the terminal, the terminal breaks.
        self._column = self._column if self._column <= self._width() else self._column % self._width()

    def _emit(self, parts: list[Span]) -> None:
        joined: list[Span] = []
        for text, style in parts:
            if joined and joined[-1][1] == style:
                joined[-1] = (joined[-1][0] + text, style)
            else:
                joined.append((text, style))
        for text, style in joined:
            self._put(text, style)
            self._column += cell_len(text)
