"""Prompt templates: `{field}` is replaced by a row's field, `{{field}}` is the literal `{field}`, nothing is executed.

A field's name is a word, or words joined by hyphens. Whatever else stands in braces is a field where the row has one of
that very name, and itself where not, so a template may hold a JSON example as it is. Inserted text is never scanned
again: a row cannot pull in another field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from landrace.errors import DataError

_NAME = re.compile(r"[^\W\d]\w*(?:-\w+)*")
_TOKEN = re.compile(r"\{(?P<literal>\{(?P<name>[^{}\n]{1,200})\})\}|\{(?P<field>[^{}\n]{1,200})\}")


@dataclass(frozen=True)
class PromptTemplate:
    """`text` with `{field}` places."""

    text: str

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The fields named, in the order of their first use."""
        return tuple(name for name in self._names if _NAME.fullmatch(name))

    @cached_property
    def other_names(self) -> tuple[str, ...]:
        """What else stands in braces: fields of rows that have one of the name."""
        return tuple(name for name in self._names if not _NAME.fullmatch(name))

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(match["field"] for match in _TOKEN.finditer(self.text) if match["field"]))

    def render(self, values: Mapping[str, str]) -> str:
        """The text with every field filled in. `values` holds `fields`, as `field_texts` returns them."""

        def fill(match: re.Match[str]) -> str:
            if name := match["field"]:
                return values[name] if name in values or _NAME.fullmatch(name) else match.group()
            escaped = match["name"] in values or _NAME.fullmatch(match["name"])
            return match["literal"] if escaped else match.group()

        return _TOKEN.sub(fill, self.text)


def field_texts(fields: tuple[str, ...], row: Mapping[str, Any], where: str) -> dict[str, str]:
    """The row's values of `fields` as text. A field that is missing, or neither text nor number, is a DataError."""
    return {name: field_text(name, row, where) for name in fields}


def field_text(name: str, row: Mapping[str, Any], where: str) -> str:
    """One field as text; `where` ("file, line 3") opens the error."""
    if name not in row:
        known = ", ".join(sorted(map(str, row)))
        raise DataError(f"{where}: the field '{name}' is missing.", hint=f"The row has: {known or 'no fields'}.")
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{where}: the field '{name}' must be text or a number, not {type(value).__name__}.")
    text = str(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: the field '{name}' holds half of a surrogate pair, which is not text.") from error
    return text
