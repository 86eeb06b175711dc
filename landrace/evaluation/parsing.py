"""From what a model wrote to the text that is compared. `None` always means: no answer could be read."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_OPENING, _CLOSING = "([{（［｛【〔", ")]}）］｝】〕"
_LISTED = re.compile(f"[{re.escape(_OPENING + _CLOSING)},;]")
_QUOTES = "\"'`´‘’‚‛“”„‟«»‹›「」『』*_"
_STOPS = ".,;:!?…¡¿。、，．；：！？؟،؛।॥・·"
_BULLET = re.compile(r"(?:[-+*•·#>‐-―−]+)\s+")
_LEADING_POINT = re.compile(r"(?<![\w.])([-+]?)\.(?=\d)")
_MINUS = re.compile(r"[−﹣－]|(?<![\w\s])[‒–](?=[\w$€£¥.])|(?<=\s)[‒–](?=[\d$€£¥.])|^[‒–](?=[\w$€£¥.])")
_FULL_WIDTH = str.maketrans({code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "})
WORD = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+"
"""A word, or a Chinese or Japanese character."""
_INVISIBLE = str.maketrans(dict.fromkeys("\u200b\u200e\u200f\u2060\ufeff\u00ad"))


@dataclass(frozen=True)
class Normalisation:
    """What is ignored when an answer is compared: letter case, decoration around it, lines after the first.

    `first_line` is off unless asked for; a classification looks for its label in the first line in any case.
    """

    casefold: bool = True
    strip_punctuation: bool = True
    first_line: bool = False

    def apply(self, text: str) -> str:
        """`text` in Unicode NFC, full-width signs as ordinary ones, one minus, white space around it removed, `.5` as
        `0.5`; then whatever the options say."""
        text = unicodedata.normalize("NFC", text.translate(_INVISIBLE).translate(_FULL_WIDTH)).strip()
        if self.first_line:
            text = text.partition("\n")[0].strip()
        if self.casefold:
            # Case folding can decompose letters; composing again keeps equal text equal.
            text = unicodedata.normalize("NFC", text.casefold())
        if self.strip_punctuation:
            text = strip_decoration(text)
        return _LEADING_POINT.sub(r"\g<1>0.", _MINUS.sub("-", text))


def parse_text(answer: str, normalisation: Normalisation) -> str | None:
    """The normalised answer, or None if nothing is left of it."""
    return normalisation.apply(answer) or None


def parse_pattern(answer: str, pattern: re.Pattern[str], normalisation: Normalisation) -> str | None:
    """What the first capture group holds at the last match that has it, normalised; reasoning often comes first."""
    captured = None
    for match in pattern.finditer(answer):
        captured = captured if match[1] is None else match[1]
    return None if captured is None else normalisation.apply(captured) or None


def strip_decoration(text: str) -> str:
    """`text` without what decorates it: quotes, bold, bullets, stops, brackets around all of it.

    A sign that means something stays: `-x`, `.5`, `C#`, `50%`, `f(x)`, `[0, 1)`.
    """
    start, end = 0, len(text)
    while start < end:
        first, last = text[start], text[end - 1]
        if first.isspace() or first in _QUOTES or (first in _STOPS and not _is_point(text, start, end)):
            start += 1
        elif last.isspace() or last in _QUOTES or (last in _STOPS and not _is_factorial(text, start, end)):
            end -= 1
        elif unicodedata.category(first) in ("Pd", "Po", "Sm") and (bullet := _BULLET.match(text, start, end)):
            start = bullet.end()
        elif first in _OPENING and _encloses(text, start, end):
            start, end = start + 1, end - 1
        elif last in _CLOSING and not any(
            item in _OPENING or item in ",;" for item in text[start : min(end - 1, start + 200)]
        ):
            end -= 1
        elif unicodedata.category(first) == "Sk":
            start += 1
        elif unicodedata.category(last) == "Sk" or (
            unicodedata.category(last) == "Pd" and end - start > 1 and text[end - 2].isspace()
        ):
            end -= 1
        elif end - start == 1 and unicodedata.category(first)[0] == "P" and first not in "#%&@":
            start += 1
        else:
            break
    return text[start:end]


def _is_point(text: str, start: int, end: int) -> bool:
    """Whether a stop at the start belongs to what follows, as in `.5` and `.NET`."""
    return text[start] == "." and start + 1 < end and text[start + 1].isalnum()


def _is_factorial(text: str, start: int, end: int) -> bool:
    return text[end - 1] == "!" and end - start > 1 and text[end - 2].isdigit()


def _encloses(text: str, start: int, end: int) -> bool:
    """Whether the bracket at `start` closes at the end and holds one thing, not a list: (0, 1) is not [0, 1]."""
    close = _CLOSING[_OPENING.index(text[start])]
    return text[end - 1] == close and not _LISTED.search(text, start + 1, end - 1)
