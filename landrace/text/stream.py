"""Decoding token by token: only whole characters come out, and no token is decoded twice."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Set

from landrace.text.tokenizer import Tokenizer


class TextStream:
    """Turns ids that arrive in pieces into text; what all pushes and the flush return, joined, is `decode` of all ids.

    Bytes of an unfinished UTF-8 character are held back until its other bytes arrive or `flush` is called.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special: bool = True,
        keep_leading_space: bool = False,
        shown: Set[int] = frozenset(),
    ) -> None:
        """`shown`: control tokens that are not skipped."""
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._shown = shown
        self._drops_space = tokenizer.conventions.adds_space and not keep_leading_space
        self._at_start = True
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids: Iterable[int]) -> str:
        """The new text that `ids` complete."""
        data = b"".join([self._bytes(index) for index in ids])
        if self._at_start and data:
            self._at_start = False
            if self._drops_space:
                data = data.removeprefix(b" ")
        return self._utf8.decode(data)

    def _bytes(self, index: int) -> bytes:
        skip = self._skip_special and index not in self._shown
        return self._tokenizer.shown_bytes(index, skip_special=skip)

    def flush(self) -> str:
        """The end of the text: U+FFFD for a character that never became whole. The stream is then as new."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self._at_start = True
        return rest
