"""Text from outside, made safe to show: what a terminal would obey, or an eye could not see, is spelled out.

Model answers, names in files, metadata and the messages of other libraries may hold escape sequences, text that runs
backwards, and characters without a picture. Each such character is shown as Python writes it, `\\x1b` or `\\u202e`.
What writing systems need stays: joiners in Persian or Hindi and within emoji, variation selectors, flags.
"""

from __future__ import annotations

import re
from unicodedata import bidirectional, category

_BESIDES_LINES = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, the 8-bit ones included
    r"\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    r"\u200b-\u200f\u2028-\u202e\u2060-\u206f"  # no width, ends of lines, directions
    r"\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    r"\ud800-\udfff"  # half a pair: in names of files, bytes that are not UTF-8
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
HIDDEN = re.compile(f"[{_BESIDES_LINES}]")
"""Every character that is obeyed rather than shown, or has no picture; newline and tab apart."""
_HIDDEN_IN_LINE = re.compile(rf"[\t\n{_BESIDES_LINES}]")

_JOINERS = "\u200c\u200d"
_DIRECTION_MARKS = "\u200e\u200f\u061c"
_WORD_BREAK = "\u200b"
_VARIATION = re.compile("[\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_BREAKS_WORDS = re.compile("[\u0e00-\u109f\u1780-\u17ff]")
"""Thai to Burmese, and Khmer: written without spaces."""
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]{0,6}")
"""A black flag and the tag characters that make it England's: at most six and an end."""
_LOOK_BACK = 16


def shown(text: str) -> str:
    """Safe to print as it stands; newlines and tabs stay what they are."""
    return _spelled(HIDDEN, text, 0)


def shown_line(text: str, limit: int | None = None) -> str:
    """Safe to print within a line: newlines and tabs are spelled out too. What is longer than `limit` is cut, and says
    by how much."""
    if limit is not None and len(text) > limit:
        return f"{_spelled(_HIDDEN_IN_LINE, text[:limit], 0)}... ({len(text) - limit:,} more characters)"
    return _spelled(_HIDDEN_IN_LINE, text, 0)


class ShownStream:
    """`shown` for a text that comes in pieces: they print what the whole would."""

    def __init__(self) -> None:
        self._before = ""

    def __call__(self, piece: str) -> str:
        text = self._before + piece
        start = len(self._before)
        self._before = text[-_LOOK_BACK:]
        return _spelled(HIDDEN, text, start)


def _spelled(pattern: re.Pattern[str], text: str, start: int) -> str:
    """`text` from `start` on, with what `pattern` finds spelled out unless the text before it needs it."""
    parts = []
    for match in pattern.finditer(text, start):
        at = match.start()
        if not _belongs(match[0], text[max(0, at - _LOOK_BACK) : at]):
            parts += [text[start:at], _spelling(match[0])]
            start = at + 1
    return "".join([*parts, text[start:]])


def _spelling(character: str) -> str:
    # The form of Python's own `backslashreplace`, which stands in where the output's encoding lacks a character.
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _belongs(character: str, before: str) -> bool:
    """Whether a writing system puts this character after that text. Never two in a row, which could hide a message."""
    previous = before[-1:]
    if "\U000e0020" <= character <= "\U000e007f":
        return any(_FLAG.fullmatch(before, at) for at in range(len(before)))
    if not previous or previous.isspace():
        return False
    if character in _JOINERS:
        return previous == "\ufe0f" or (
            previous > "\x7f"
            and not HIDDEN.match(previous)
            and category(previous) in ("Lo", "Lm", "Mn", "Mc", "So", "Sk")
        )
    if HIDDEN.match(previous):
        return False
    if character == _WORD_BREAK:
        return bool(_BREAKS_WORDS.match(previous))
    if character in _DIRECTION_MARKS:
        return any(bidirectional(one) in ("R", "AL") for one in before if one not in _DIRECTION_MARKS)
    return bool(_VARIATION.match(character))
