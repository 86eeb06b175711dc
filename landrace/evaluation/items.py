"""Answers that are several things: a set or a list, of numbers or of texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from landrace.evaluation.denial import Mention, not_denied
from landrace.evaluation.folding import folded
from landrace.evaluation.number_answer import gold_number, same_number
from landrace.evaluation.numbers import Number, ascii_digits, find_numbers, number_text
from landrace.evaluation.parsing import Normalisation, strip_decoration
from landrace.evaluation.reading import boxed, has_box, naming_regions, plain_text, refusing

MAX_ITEMS = 1000
_AND = "and|und|et|y|e|и|i|та|і|a|ve|και|و|और|और|และ|và|en|och|og|ja|és|dan|și|si|og|以及|和|与|與|と|및|그리고"
_SEPARATOR = re.compile(rf"[,;、،؛，；\n]+\s*(?:(?:{_AND})\s)?|\s(?:{_AND}|&)\s|(?<=[\u4e00-\u9fff])[和与與と](?=\S)")
_ITEM_MARK = re.compile(r"^\s*(?:[-*•·]|\(?\d{1,3}[.)](?=\s))\s*", re.MULTILINE)


def read_items(answer: str, language: str, normalisation: Normalisation, *, numbers: bool) -> tuple[list[str], bool]:
    """The items that `answer` gives, in order, and whether it declines to answer."""
    text = boxed(answer) or "" if has_box(answer) else answer
    text = plain_text(text).replace("\\{", "").replace("\\}", "").replace("$", "")
    if refusing(folded(text).text):
        return [], True
    items = _numbers(text, language) if numbers else _texts(text, normalisation)
    return items[:MAX_ITEMS], False


def same_items(read: Sequence[str], expected: Sequence[str], language: str, *, ordered: bool, numbers: bool) -> bool:
    """Whether the items are those expected: in order, or as sets."""
    golds = [gold_number(item, language) for item in expected] if numbers else expected

    def equal(item: str, gold: str | Number | None) -> bool:
        return same_number(item, gold) if isinstance(gold, Number) else item == gold

    if ordered:
        return len(read) == len(golds) and all(map(equal, read, golds))
    return all(any(equal(item, gold) for gold in golds) for item in read) and all(
        any(equal(item, gold) for item in read) for gold in golds
    )


def _numbers(text: str, language: str) -> list[str]:
    """Every number of the text, or of the part that names the answer; nothing if one of them cannot be told."""
    plain = ascii_digits(_ITEM_MARK.sub("", text))
    start = max((start for start, _ in naming_regions(plain.lower())), default=0)
    found = list(find_numbers(plain[start:], language)) or list(find_numbers(plain, language))
    mentions = [Mention(item.start, item.end, number_text(item)) for item in found]
    lower = plain[start:].lower()
    if len(lower) == len(plain[start:]):
        mentions = not_denied(lower, mentions)
    items: list[str] = []
    for mention in mentions:
        if mention.label != "?":
            items.append(mention.label)
            continue
        # Digits between commas that are no groups of three are a list without spaces: 1,2,3.
        parts = [gold_number(part, "en") for part in plain[start:][mention.start : mention.end].split(",")]
        if None in parts:
            return []
        items += [number_text(part) for part in parts if part is not None]
    return items


def _texts(text: str, normalisation: Normalisation) -> list[str]:
    lines = [line for line in text.strip().split("\n") if line.strip()]
    if len(lines) == 1 and ":" in lines[0]:
        lines = [lines[0].partition(":")[2]]
    elif len(lines) > 1 and lines[0].rstrip().endswith(":"):
        lines = lines[1:]
    joined = _ITEM_MARK.sub("", "\n".join(lines)).strip().strip("()[]{}.")
    parts = (normalisation.apply(strip_decoration(part)) for part in _SEPARATOR.split(joined))
    return [part for part in parts if part]
