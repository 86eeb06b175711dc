"""Which number an answer gives, and whether it is the expected one. The rules are told in docs/evaluate.md."""

from __future__ import annotations

import re
from fractions import Fraction

from landrace.evaluation import lexicon
from landrace.evaluation.folding import folded
from landrace.evaluation.marked import Marked
from landrace.evaluation.numbers import Number, ascii_digits, find_numbers, number_text, number_word
from landrace.evaluation.parsing import strip_decoration
from landrace.evaluation.reading import Reading, boxed, has_box, naming_regions, plain_text, refusing

_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*(-?\d+)\s*\}|(\d))\s*(?:\{\s*(-?\d+)\s*\}|(\d))")
_DELIMITER = re.compile(r"\\[()\[\]]|\$\$|\*\*(?!\d)|(?<!\w)__|`")
_MACHINE = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d{1,3})?|[-+]?\d+/0*[1-9]\d*")


def read_number(answer: str, language: str) -> Reading:
    """The one number that `answer` gives, as `number_text` writes it."""
    text = plain_text(boxed(answer) or "") if has_box(answer) else answer
    plain = _plain(text)
    found = [(item.start, item.end, number_text(item)) for item in find_numbers(plain, language)]
    return Marked.of(plain, found).answer() if found else _in_words(text)


def gold_number(text: str, language: str) -> Number | None:
    """The number of an expected answer: machine notation (a point, no grouping), else as the language writes it."""
    text = text.strip()
    if _MACHINE.fullmatch(text) and len(text) < 400:
        return Number(0, len(text), Fraction(text))
    plain = _plain(text)
    found = list(find_numbers(plain, language))
    if len(found) != 1 or found[0].value is None or plain[: found[0].start].strip() or plain[found[0].end :].strip():
        return None
    return found[0]


def same_number(read: str, gold: Number) -> bool:
    """Whether the text of a number read equals the expected one.

    A percentage is a share: 50% is 0.5. Where more than 1 is expected, 50% is 50 as well.
    """
    if gold.value is None or isinstance(gold.value, float) or "inf" in read:
        return read == number_text(gold)
    value = Fraction(read.rstrip("%"))
    if not read.endswith("%"):
        return value == gold.value
    return value / 100 == gold.value or (not gold.percent and abs(gold.value) > 1 and value == gold.value)


def _plain(text: str) -> str:
    text = _FRACTION.sub(lambda match: f"{match[1] or match[2]}/{match[3] or match[4]}", plain_text(text))
    return ascii_digits(_DELIMITER.sub("", text))


def _in_words(text: str) -> Reading:
    """A number written in words, where the answer is nothing else or names it."""
    plain = folded(text).text
    equals = re.compile(rf"[\s:]*(?:{lexicon.pattern(lexicon.EQUALS).pattern})?")
    regions = [equals.sub("", plain[start:end], count=1) for start, end in naming_regions(plain)]
    for candidate in (text, *reversed(regions)):
        value = number_word(strip_decoration(candidate.strip())) if len(candidate) < 200 else None
        if value is not None:
            return Reading(number_text(Number(0, 0, value)))
    return Reading(None, refused=refusing(plain))
