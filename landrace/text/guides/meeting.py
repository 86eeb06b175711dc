"""How many patterns of a schema one text may have to match at once: the library's work doubles with each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
    meeting = _Meeting(found)
    meeting.follow(schema)
    return max(meeting.of(schema), default=0)


class _Meeting:
    def __init__(self, found: Callable[[str], Any]) -> None:
        self._found = found
        self._begun: set[str] = set()
        self._referred: dict[str, Depths] = {}
        """Of references that were followed; those within themselves add nothing."""

    def follow(self, schema: Any) -> None:
        """Takes up what every reference within a schema leads to, what rests on others after those. By a stack, since
        references may lead through thousands of schemas."""
        stack: list[tuple[str | None, Iterator[str]]] = [(None, _references(schema))]
        while stack:
            reference, inner = stack[-1]
            further = next((one for one in inner if one not in self._begun), None)
            if further is not None:
                self._begun.add(further)
                stack.append((further, _references(self._found(further))))
                continue
            stack.pop()
            if reference is not None:
                self._referred[reference] = self.of(self._found(reference))

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
        parts += [self._referred.get(schema["$ref"], [])] if "$ref" in schema else []
        return _each(parts, sum)


def _references(value: Any) -> Iterator[str]:
    """Of a schema and all within it."""
    for name, one in value.items() if isinstance(value, dict) else ():
        if name == "$ref" and isinstance(one, str):
            yield one
        yield from _references(one)
    for one in value if isinstance(value, list) else ():
        yield from _references(one)


def _each(depths: Iterable[Depths], join: Callable[[Iterable[int]], int]) -> Depths:
    return [join(counts) for counts in zip_longest(*depths, fillvalue=0)]
