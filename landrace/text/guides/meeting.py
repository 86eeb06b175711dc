"""How many patterns of a schema one text may have to match at once: the library's work doubles with each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import zip_longest
from typing import Any

MOST = 8
"""Twelve take half a second, twenty minutes and gigabytes."""

Depths = list[int]
"""For each depth of values in values: the most patterns that meet in one text there."""


def most_meeting(schema: Any, found: Callable[[str], Any]) -> int:
    """The most patterns and formats that meet in one text, or more where members of different names are told apart.

    `found`: what a reference leads to.
    """
    return max(_Meeting(found).of(schema), default=0)


class _Meeting:
    def __init__(self, found: Callable[[str], Any]) -> None:
        self._found = found
        self._referred: dict[str, Depths] = {}
        """Of references that were followed; those within themselves add nothing."""

    def of(self, schema: Any) -> Depths:
        if not isinstance(schema, dict):
            return []
        own = sum(name in schema for name in ("pattern", "format"))
        inner = [one for name in ("properties", "patternProperties") for one in schema.get(name, {}).values()]
        inner += [schema[name] for name in ("items", "additionalProperties") if name in schema]
        inner += schema.get("prefixItems", [])
        parts = [[own, *_each(map(self.of, inner), max)]]
        parts += [_each(map(self.of, schema.get(name, [])), max) for name in ("anyOf", "oneOf")]
        parts += [self.of(one) for one in schema.get("allOf", [])]
        parts += [self._behind(schema["$ref"])] if "$ref" in schema else []
        return _each(parts, sum)

    def _behind(self, reference: str) -> Depths:
        if reference not in self._referred:
            self._referred[reference] = []
            self._referred[reference] = self.of(self._found(reference))
        return self._referred[reference]


def _each(depths: Iterable[Depths], join: Callable[[Iterable[int]], int]) -> Depths:
    return [join(counts) for counts in zip_longest(*depths, fillvalue=0)]
