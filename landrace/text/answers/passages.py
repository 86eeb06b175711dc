"""White space beside marks, which belongs to the marks and not to what is said."""

from __future__ import annotations


class Passages:
    """Text of one kind between marks.

    White space at a mark is left out where the text begins or ends there; between two passages it stays, and two that
    touch are parted by a line break.
    """

    def __init__(self) -> None:
        self._held = ""
        self._said = False
        self._at_mark = False

    def mark(self) -> None:
        """A mark stands here."""
        self._at_mark = True

    def push(self, piece: str) -> str:
        """Adds text and returns what is known to stay of all so far."""
        body = piece.rstrip()
        if not body:
            self._held += piece
            return ""
        text, self._held = self._held + body, piece[len(body) :]
        if self._at_mark:
            if not self._said:
                text = text.lstrip()
            elif not text[0].isspace():
                text = "\n" + text
        self._said, self._at_mark = True, False
        return text

    def end(self) -> str:
        """What was held back, when no more text will come."""
        held, self._held = self._held, ""
        return "" if self._at_mark else held
