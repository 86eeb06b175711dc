"""A text whose answers are found by their form (numbers, formulas): which of them is the one that the text gives.

Each stands as one digit in the folded text around it, so that the words about it can be read.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from landrace.evaluation import lexicon
from landrace.evaluation.denial import Mention, not_denied
from landrace.evaluation.folding import folded
from landrace.evaluation.reading import Reading, answering_parts, naming_regions, refusing, sentence_end

UNREADABLE = "?"
_CLAUSE = re.compile(r"[;\n]|[,，、] |[.!?。！？](?!\d)")


@dataclass(frozen=True)
class Marked:
    """The folded text, and what is in it and not denied, in order."""

    text: str
    given: list[Mention]

    @classmethod
    def of(cls, text: str, found: Iterable[tuple[int, int, str]]) -> Marked:
        """`found` are places in `text` with what stands there, in order; UNREADABLE is what cannot be told."""
        parts: list[str] = []
        mentions: list[Mention] = []
        length = last = 0
        for start, end, label in found:
            between = folded(text[last:start]).text
            parts += [between, "0"]
            length += len(between) + 1
            mentions.append(Mention(length - 1, length, label))
            last = end
        whole = "".join([*parts, folded(text[last:]).text])
        return cls(whole, not_denied(whole, mentions))

    def answer(self) -> Reading:
        """The one that is named last; else, outside of refusals, the only one, or the one that is stated last."""
        if (named := self._named()) is not None:
            return Reading(named)
        refused = refusing(self.text)
        given = self._outside_refusals() if refused else self.given
        values = {item.label for item in given}
        if len(values) > 1:
            values = {self._stated(given) or UNREADABLE}
        value = values.pop() if values else None
        if value is None or value == UNREADABLE:
            return Reading(None, refused=refused and not given)
        return Reading(value)

    def _named(self) -> str | None:
        starts = [item.start for item in self.given]
        found: list[tuple[int, str]] = []
        for start, end in naming_regions(self.text):
            inside = self.given[bisect_left(starts, start) : bisect_left(starts, end)]
            if inside and (value := self._one_of(inside, start, end)) is not None:
                found.append((inside[-1].start, value))
        behind = lexicon.pattern(lexicon.NAMES_BEHIND)
        for item in self.given:
            if behind.match(self.text, item.end + (self.text[item.end : item.end + 1] == " ")):
                found.append((item.start, item.label))
        value = max(found)[1] if found else UNREADABLE
        return None if value == UNREADABLE else value

    def _outside_refusals(self) -> list[Mention]:
        starts = [item.start for item in self.given]
        kept: list[Mention] = []
        for start, end in answering_parts(self.text):
            kept += self.given[bisect_left(starts, start) : bisect_left(starts, end)]
        return kept

    def _stated(self, given: list[Mention]) -> str | None:
        """Of several the one that the last sentence with any states: behind "so", "in total", "=" or "is"."""
        last = given[-1].start
        start = max(
            (match.end() for match in _CLAUSE.finditer(self.text, 0, last) if match[0][0] not in ",，、"), default=0
        )
        end = sentence_end(self.text, last)
        inside = [item for item in given if start <= item.start < end]
        for match in lexicon.pattern(lexicon.CONCLUDES).finditer(self.text, start, end):
            behind = {item.label for item in inside if item.start >= match.end()}
            if len(behind) == 1:
                return behind.pop()
        return self._one_of(inside, start, end)

    def _one_of(self, inside: list[Mention], start: int, end: int) -> str | None:
        """The only one in a part of the text, the lone side of an equation, or the only one behind "is"."""
        values = {item.label for item in inside}
        if len(values) > 1:
            values = self._sides(inside, start, end) or self._behind_is(inside)
        return values.pop() if len(values) == 1 and UNREADABLE not in values else None

    def _sides(self, inside: list[Mention], start: int, end: int) -> set[str]:
        """Those that are one side of an equation by themselves."""
        if "=" not in self.text[start:end]:
            return set()
        at = max((match.end() for match in _CLAUSE.finditer(self.text, start, inside[-1].start)), default=start)
        alone = set()
        for side in self.text[at:end].split("="):
            here = [item for item in inside if at <= item.start < at + len(side)]
            if len(here) == 1 and not re.search(r"[-+*/×÷·^]", side):
                alone.add(here[0].label)
            at += len(side) + 1
        return alone

    def _behind_is(self, inside: list[Mention]) -> set[str]:
        return {item.label for item in inside if _is_before().search(self.text[max(0, item.start - 24) : item.start])}


@cache
def _is_before() -> re.Pattern[str]:
    return re.compile(f"(?:{lexicon.pattern(lexicon.EQUALS).pattern})[^\\w]*$")
