"""Which of several labels an answer gives. The rules are told in docs/evaluate.md, the words are in `lexicon`.

Everything happens on folded text (`folding`): labels are found in it, those that are denied are dropped, and what is
left counts by where it stands. All searches are linear in the length of the answer.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache

from landrace.evaluation import lexicon
from landrace.evaluation.denial import Mention, not_denied
from landrace.evaluation.folding import Folded, folded, in_word, is_unspaced, joined
from landrace.evaluation.parsing import strip_decoration
from landrace.evaluation.reading import (
    UNREAD,
    Reading,
    boxed,
    line_end,
    naming_regions,
    plain_text,
    refusing,
    without_refusals,
)

_SEPARATOR = re.compile(r"[ _-]+")
MAX_LINES = 1000

_HANGUL = re.compile(r"[\uac00-\ud7af]")
# What may follow a label of one letter without making another word of it.
_PARTICLE = re.compile(r"的|了|啊|です|だ|입니다|이다|요|이에요|예요|임")
_MARKED_LINE = re.compile(r"^[^\w\n]*(\w)[^\w\s]*[).\]:]", re.MULTILINE)
_JOINED_LETTERS = re.compile(
    r"\w (?:or|and|oder|und|ou|et|o|y|e|или|и|ili|i|veya|ve|hoặc|và|of|en|eller|och) (\w)(?!\w)"
)
_PREFIX = re.compile(r"(?<!\w)(?:[وفبلک]?ال|[وفبلک]|[وف]?لل|[והבלשכמ]{1,2})$")
_LOOKALIKES = str.maketrans("АВЕКМНОРСТХΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEKMHOPCTXABEZHIKMNOPTYX")


def read_label(answer: str, names: Mapping[str, str], *, casefold: bool = True) -> Reading:
    """The label that `answer` gives. `names` maps what may be written to the label that it stands for."""
    finder = _finder(tuple(names.items()), casefold)
    for whole in (answer, plain_text(boxed(answer) or "")):
        if (label := finder.whole(whole)) is not None:
            return Reading(label)
    text = folded(answer)
    lines = {label for line in text.text.split("\n", MAX_LINES)[:MAX_LINES] if line and (label := finder.whole(line))}
    if len(lines) > 1:
        return UNREAD
    named = _named(text, finder)
    if named is not None:
        return Reading(named)
    if len(finder.marked(text.text)) > 1:
        return UNREAD
    start = len(text.text) - len(text.text.lstrip())
    first = text.part(start, line_end(text.text, start))
    refused = refusing(text.text)
    given = {mention.label for mention in finder.given(without_refusals(first) if refused else first)}
    if len(given) == 1:
        return Reading(given.pop())
    return Reading(None, refused=refused and not given)


def _named(text: Folded, finder: _Finder) -> str | None:
    """The label that is named last: "the answer is X", "Label: X", "X is correct"."""
    mentions = finder.given(text, in_region=True)
    starts = [mention.start for mention in mentions]
    found: list[tuple[int, str]] = []
    for start, end in naming_regions(text.text):
        inside = mentions[bisect_left(starts, start) : bisect_left(starts, end)]
        if len({mention.label for mention in inside}) == 1:
            found.append((inside[0].start, inside[0].label))
        elif (label := finder.whole(text.text[start:end])) is not None:
            found.append((start, label))
    for mention in mentions:
        if (
            mention.end - mention.start == 1
            and not text.text[mention.start].isdecimal()
            and lexicon.pattern(lexicon.NAMES_BEHIND).match(
                text.text, mention.end + (text.text[mention.end : mention.end + 1] == " ")
            )
        ):
            found.append((mention.start, mention.label))
    return max(found)[1] if found else None


class _Finder:
    """Finds the labels of one task in folded text."""

    def __init__(self, names: Sequence[tuple[str, str]], casefold: bool) -> None:
        self._casefold = casefold
        self._labels = {label_key(name, casefold): label for name, label in names}
        keys = {label_key(name, casefold): name for name, _ in names}
        self._letters = {key: name for key, name in keys.items() if _is_letter(key)}
        words = sorted(set(self._labels) - set(self._letters), key=len, reverse=True)
        self._patterns = [(re.compile("[ _-]+".join(map(re.escape, word.split(" ")))), word) for word in words]
        self._longest = max(map(len, self._labels))
        self._latin = all(name.isascii() for name in self._letters.values())

    def whole(self, text: str) -> str | None:
        """The label that the text is, but for decoration around it."""
        if len(text) > 4 * self._longest + 100:
            return None
        plain = folded(text).text.strip() if self._casefold else folded(text).cased.strip()
        found = _spaced(strip_decoration(plain))
        if self._latin and len(found) == 1:
            found = found.upper().translate(_LOOKALIKES).casefold() if not found.isascii() else found
        if found.isdecimal() and not _is_whole_number(plain, plain.find(found), plain.find(found) + len(found)):
            return None
        return self._labels.get(found, self._labels.get(_spaced(plain)) if not found.isdecimal() else None)

    def marked(self, text: str) -> set[str]:
        """The one-letter labels that open a line with a list mark, as where all options are told again."""
        return {self._labels[match[1]] for match in _MARKED_LINE.finditer(text) if match[1] in self._letters}

    def given(self, text: Folded, *, in_region: bool = False) -> list[Mention]:
        """The labels named and not denied, in order. `in_region` is for text where an answer is being named."""
        found: list[Mention] = []
        taken = bytearray(len(text.text))
        for pattern, word in self._patterns:
            for match in pattern.finditer(text.text if self._casefold else text.cased):
                start, end = match.span()
                # Longest first: a place taken by one label is not free for another.
                if not taken[start] and not taken[end - 1] and _stands_alone(text.text, start, end):
                    taken[start:end] = b"\1" * (end - start)
                    found.append(Mention(start, end, self._labels[word]))
        found += [item for item in self._letter_mentions(text, in_region) if not taken[item.start]]
        found.sort(key=lambda mention: mention.start)
        return not_denied(text.text, found) if found else []

    def _letter_mentions(self, text: Folded, in_region: bool) -> list[Mention]:
        cased = text.cased.translate(_LOOKALIKES) if self._latin else text.cased
        found = []
        for letter, name in self._letters.items():
            forms = (letter, letter.upper()) if self._casefold else (letter,)
            for match in re.finditer("|".join(map(re.escape, forms)), cased):
                at = match.start()
                as_written = match.group() == name or not letter.islower() or match.group().isupper()
                if _is_meant(text.text, cased, at, as_written, in_region) or self._is_joined(text.text, at):
                    found.append(Mention(at, at + 1, self._labels[letter]))
        return found

    def _is_joined(self, text: str, at: int) -> bool:
        """Whether a letter opens the text as one of two: "A or B"."""
        match = _JOINED_LETTERS.match(text, at)
        return bool(match and not text[:at].strip() and match[1] in self._letters)


@lru_cache(maxsize=64)
def _finder(names: tuple[tuple[str, str], ...], casefold: bool) -> _Finder:
    return _Finder(names, casefold)


def label_key(name: str, casefold: bool = True) -> str:
    """The form in which a label is looked for; labels with equal keys cannot be told apart."""
    both = folded(name)
    return _spaced((both.text if casefold else both.cased).strip())


def _spaced(plain: str) -> str:
    return _SEPARATOR.sub(" ", plain).strip() or plain


def _is_letter(word: str) -> bool:
    return len(word) == 1 and not word.isdecimal()


def _stands_alone(text: str, start: int, end: int) -> bool:
    if text[start:end].isdecimal():
        return _is_whole_number(text, start, end)
    before, after = text[start - 1 : start], text[end : end + 1]
    if joined(text[end - 1], after):
        return False
    if _HANGUL.match(text[start]):
        return not _HANGUL.match(before)
    return not joined(before, text[start]) or bool(_PREFIX.search(text[max(0, start - 4) : start]))


def _is_whole_number(text: str, start: int, end: int) -> bool:
    """Whether the digits are all of a number: no sign, decimals, thousands, ratio, date or percentage around them."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if re.search(r"[-+±]$|[\d][.,:/]$|^\.$|[^\d]\.$", before) or re.match(r"[.,:/-]\d|[%‰/^²³]", after):
        return False
    return not joined(before[-1:], text[start]) and not joined(text[end - 1], after[:1])


def _is_meant(text: str, cased: str, at: int, as_written: bool, in_region: bool) -> bool:
    """Whether a letter is a label and no word: "Labels of one letter" in docs/evaluate.md says when."""
    before, after = text[at - 1 : at] if at else "", text[at + 1 : at + 2]
    if is_unspaced(text[at]):
        return not in_word(before) and (not in_word(after) or bool(_PARTICLE.match(text, at + 1)))
    if joined(before, text[at]) or joined(text[at], after):
        return False
    ahead = text[max(0, at - 8) : at].rstrip(" *_`\"'([")
    opening = not ahead or ahead[-1] in ".!?\n"
    if not as_written:
        return opening and after != "" and after in ").]:"
    behind = text[at + 1 : at + 9].lstrip(' *_`"') if after != "'" else "'"
    stop = not behind or behind[0] in ".,;:!?)]}|\n。，、；：！？）】-/(" or is_unspaced(behind[0])
    if opening:
        return stop or bool(lexicon.pattern(lexicon.NAMES_BEHIND).match(text, at + 1 + (after == " ")))
    return stop or after == "'" or (in_region and cased[at] != "I")
