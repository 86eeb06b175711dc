"""Text made comparable for looking up words: one form for what readers of its script take for the same letter.

Folded text has NFKC's forms, no marks that may be left out (Arabic and Hebrew vowel points, the Greek accent, Cyrillic
stress), no invisible characters, digits of every script as 0 to 9, one hyphen, one apostrophe and one space. `Folded`
keeps the letter case beside it, character by character.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]"
)
_OPTIONAL_MARKS = re.compile(r"[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670]")
_STRESSED = re.compile(r"(?<=[\u0370-\u052f\u1f00-\u1fff])[\u0301\u0300\u0342]+")
_SPACES = re.compile(r"[^\S\n]+")
_SAME = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63\uff0d", "-"),
        **dict.fromkeys("\u2018\u2019\u201b\u02bc\u055a\uff07\u00b4", "'"),
        **dict.fromkeys("\u064a\u0649", "\u06cc"),  # Arabic and Persian yeh
        **dict.fromkeys("\u0623\u0625\u0622\u0671", "\u0627"),  # alef with and without hamza
        "\u0643": "\u06a9",  # Arabic and Persian kaf
        "\u0131": "i",  # casefold leaves the dotless i apart from I
    }
)


@dataclass(frozen=True)
class Folded:
    """`text` without letter case, `cased` with it; both have the same length."""

    text: str
    cased: str

    def part(self, start: int, end: int) -> Folded:
        return Folded(self.text[start:end], self.cased[start:end])


def folded(text: str) -> Folded:
    """Both forms of `text`, in linear time."""
    plain = unicodedata.normalize("NFKC", text)
    # NFKC first, so that the marks to drop are apart from their letters in NFD.
    plain = _STRESSED.sub("", _OPTIONAL_MARKS.sub("", unicodedata.normalize("NFD", plain)))
    plain = unicodedata.normalize("NFC", plain).translate(_SAME)
    plain = "".join(_character(item) for item in plain)
    plain = _SPACES.sub(" ", plain)
    # A character whose folding is longer than itself is folded in both forms, which keeps them aligned.
    cased = "".join(item if len(_casefold(item)) == 1 else _casefold(item) for item in plain)
    return Folded("".join(map(_casefold, cased)), cased)


def fold(text: str) -> str:
    """`text` folded, without letter case and without white space around it."""
    return folded(text).text.strip()


def is_unspaced(character: str) -> bool:
    """Whether the character belongs to a script in which words (or their endings) follow without a space."""
    return bool(_UNSPACED.match(character))


def in_word(character: str) -> bool:
    """Whether the character can be part of a word: letters, marks, numbers and the underscore."""
    return bool(character) and (character == "_" or unicodedata.category(character)[0] in "LMN")


def joined(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to one word."""
    return in_word(left) and in_word(right) and not (is_unspaced(left) or is_unspaced(right))


def _character(character: str) -> str:
    if character < "\x7f":
        return character
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    return str(unicodedata.decimal(character)) if category == "Nd" else character


def _casefold(character: str) -> str:
    return "i" if character == "\u0130" else character.casefold().replace("\u0131", "i")
