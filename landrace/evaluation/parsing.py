"""From what a model wrote to what it answered. `None` always means: no answer could be read, which counts as wrong."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_REASONING = re.compile(r"<think>.*?</think>", re.DOTALL)
_SIGNED_NUMBER = re.compile(r"[-+]\.?\d")
# Scripts written without spaces between words; elsewhere a label must stand as a word of its own.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True)
class Normalisation:
    """What is ignored when an answer is compared: letter case, punctuation around it, lines after the first.

    `first_line` is off unless asked for; a classification looks for its label in the first line in any case.
    """

    casefold: bool = True
    strip_punctuation: bool = True
    first_line: bool = False

    def apply(self, text: str) -> str:
        """`text` in Unicode NFC, white space around it removed, then whatever the options say."""
        text = unicodedata.normalize("NFC", text).strip()
        if self.first_line:
            text = text.partition("\n")[0].strip()
        if self.casefold:
            # Case folding can decompose letters; composing again keeps equal text equal.
            text = unicodedata.normalize("NFC", text.casefold())
        return _strip_punctuation(text) if self.strip_punctuation else text


def strip_reasoning(answer: str) -> str:
    """The answer without `<think>...</think>`. Reasoning that never ends leaves no answer.

    Some templates open the reasoning in the prompt, so a lone `</think>` ends it too.
    """
    answer = _REASONING.sub("", answer)
    answer = answer.rpartition("</think>")[2]
    return answer.partition("<think>")[0]


def parse_text(answer: str, normalisation: Normalisation) -> str | None:
    """The normalised answer, or None if nothing is left of it."""
    return normalisation.apply(strip_reasoning(answer)) or None


def parse_label(answer: str, labels: Sequence[str], normalisation: Normalisation) -> str | None:
    """The label that the answer is, else the only label that its first line names, else None.

    A label inside a longer label does not count as named on its own ("refund" in "refund status").
    """
    answer = strip_reasoning(answer)
    wanted = normalisation.apply(answer)
    by_text = {normalisation.apply(label): label for label in labels}
    if wanted in by_text:
        return by_text[wanted]
    line = answer.strip().partition("\n")[0]
    found = _labels_named(Normalisation(normalisation.casefold, strip_punctuation=False).apply(line), tuple(by_text))
    return by_text[found.pop()] if len(found) == 1 else None


def parse_pattern(answer: str, pattern: re.Pattern[str], normalisation: Normalisation) -> str | None:
    """What the first capture group holds at the last match, normalised; reasoning often precedes the answer."""
    captured = None
    for match in pattern.finditer(strip_reasoning(answer)):
        captured = match[1]
    return None if captured is None else normalisation.apply(captured) or None


def _labels_named(line: str, labels: tuple[str, ...]) -> set[str]:
    """Labels that occur in the line as words, longest first; a place taken by one label is not free for another."""
    found: set[str] = set()
    for label in sorted(labels, key=len, reverse=True):
        places = [place for place in _occurrences(line, label) if _stands_alone(line, *place)]
        if places:
            found.add(label)
        for start, end in places:
            line = line[:start] + "\0" * (end - start) + line[end:]
    return found


def _occurrences(line: str, label: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(re.escape(label), line)]


def _stands_alone(line: str, start: int, end: int) -> bool:
    before, after = line[start - 1 : start], line[end : end + 1]
    return not (_joined(before, line[start]) or _joined(line[end - 1], after))


def _joined(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to one word."""
    if not (_in_word(left) and _in_word(right)):
        return False
    return not (_UNSPACED.match(left) or _UNSPACED.match(right))


def _in_word(character: str) -> bool:
    return bool(character) and (character == "_" or unicodedata.category(character)[0] in "LMN")


def _strip_punctuation(text: str) -> str:
    start, end = 0, len(text)
    while start < end and _is_punctuation(text[start]) and not _SIGNED_NUMBER.match(text, start):
        start += 1
    while end > start and _is_punctuation(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_punctuation(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] == "P" or category == "Sk" or character.isspace()
