"""Which of the labels (or numbers) that a text names are denied: "not X", "X değil", "neither X nor Y"."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

from landrace.evaluation import lexicon
from landrace.evaluation.reading import MAX_SENTENCE, sentence_end

_SUBORDINATE = (
    r"(?!\s*(?:что|чтобы|що|че|да|дека|da|dass|ob|dat|that|que|che|że|že|hogy|att|at|ότι|πως|ان|بان|که|ki|כי)\b)"
)
_CLAUSE_END = re.compile(rf"[.!?;:\n。！？؟।॥；：)|]|[,，、،]{_SUBORDINATE}| -+ |(?<=[\u0e00-\u0eff\u1780-\u17ff]) ")


@dataclass(frozen=True)
class Mention:
    """Something named in a text, from `start` to `end`."""

    start: int
    end: int
    label: str


def not_denied(text: str, mentions: Sequence[Mention]) -> list[Mention]:
    """The mentions (in order) that the folded text does not deny.

    A denying word denies what follows it in its clause, or, in languages that put it behind, what stands before it.
    Clauses end at punctuation and at words of contrast. A denying word before a comma or a colon denies on to the end
    of its sentence ("not, in my view, X"), unless it is an interjection ("No, X").
    """
    idle = [match.span() for match in lexicon.pattern(lexicon.DENIES_NOTHING).finditer(text)]
    mentions = [item for item in mentions if not _inside_longer(item, idle)]
    bare = _blanked(text, [*idle, *((item.start, item.end) for item in mentions)])
    borders = sorted(
        [match.start() for match in _CLAUSE_END.finditer(bare)]
        + [match.start() for match in lexicon.pattern(lexicon.CONTRASTS).finditer(bare)]
    )
    starts = [item.start for item in mentions]
    denied = [0] * (len(mentions) + 1)

    def deny(start: int, end: int) -> bool:
        """Denies the mentions that start in this part; a step up and one down, so that many words cost no more."""
        first, last = bisect_left(starts, start), bisect_left(starts, end)
        if first < last:
            denied[first] += 1
            denied[last] -= 1
        return first < last

    for match in lexicon.pattern(lexicon.DENIES_AHEAD).finditer(bare):
        end = _scope_end(bare, match, borders)
        ends_clause = match.group() in _closing_words() and not bare[match.end() : min(end, match.end() + 9)].strip()
        if not deny(match.end(), end) and ends_clause:
            deny(_clause_start(match.start(), borders), match.start())
    last = 0
    for match in lexicon.pattern(lexicon.DENIES_BEHIND).finditer(bare):
        start = max(last, _clause_start(match.start(), borders))
        deny(start, match.start())
        last = match.end()
    return [item for item, times in zip(mentions, accumulate(denied), strict=False) if not times]


def _scope_end(bare: str, match: re.Match[str], borders: list[int]) -> int:
    """Where what `match` denies ahead ends."""
    after = match.end()
    while bare[after : after + 1] == " ":
        after += 1
    if bare[after : after + 1] in (",", "，", "،", ":", "：") and match.group() not in _interjections():
        return sentence_end(bare, after)
    place = bisect_left(borders, after)
    return min(borders[place] if place < len(borders) else len(bare), after + MAX_SENTENCE)


def _clause_start(place: int, borders: list[int]) -> int:
    found = bisect_right(borders, place - 1)
    return borders[found - 1] if found else 0


def _inside_longer(mention: Mention, idle: Sequence[tuple[int, int]]) -> bool:
    place = bisect_right(idle, (mention.start, 1 << 60)) - 1
    if place < 0:
        return False
    start, end = idle[place]
    return start <= mention.start and mention.end <= end and end - start > mention.end - mention.start


def _blanked(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """The text with NUL in the spans, so that no word is looked for there."""
    parts, last = [], 0
    for start, end in sorted(spans):
        if end > last:
            parts += [text[last : max(start, last)], "\0" * (end - max(start, last))]
            last = end
    return "".join([*parts, text[last:]])


@cache
def _interjections() -> frozenset[str]:
    return frozenset(lexicon.phrases(lexicon.INTERJECTIONS))


@cache
def _closing_words() -> frozenset[str]:
    return frozenset(lexicon.phrases(lexicon.DENIES_BEFORE_ITS_END))
