"""A row as it was read, and what no row may hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from landrace.errors import DataError

MAX_ROW_BYTES = 16 << 20
"""A longer row is refused before it is parsed: no example of this size can be trained on or asked."""
MAX_DEPTH = 100
"""Lists and objects within one another. Tool schemas, the deepest of what is real, have about ten."""

_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}


@dataclass(frozen=True)
class DataRow:
    """One row. `values` are JSON values by column, or whatever else a JSON file has as a row: a list, a number."""

    file: str
    place: str
    """"line 3" where the file has a row a line, else "row 3"; both count from 1."""
    values: Any

    @property
    def where(self) -> str:
        """File and place, as messages about this row begin."""
        return f"{self.file}, {self.place}"


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read, while those behind it can."""

    where: str
    error: DataError


def kind(value: object) -> str:
    """What a value is, in words: "a list", "null"."""
    return _KINDS.get(type(value), type(value).__name__)


def check_values(values: Mapping[str, Any], where: str) -> None:
    """DataError, naming the column, for what JSON's text form cannot say or nobody can mean: NaN and infinities, half a
    surrogate pair, more than MAX_DEPTH values within one another."""
    for column, value in values.items():
        _check_text(column, "a column's name", where)
        _check_value(value, f"'{column}'", where)


def _check_value(top: Any, name: str, where: str) -> None:
    level = [top]
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value, name, where)
            elif isinstance(value, float):
                if not math.isfinite(value):
                    raise not_finite(name, str(value), where)
            elif isinstance(value, Mapping):
                deeper += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple):
                deeper += value
        if not deeper:
            return
        level = deeper
    raise DataError(f"{where}: {name} is nested too deeply: more than {MAX_DEPTH} lists and objects in one another.")


def not_finite(name: str, value: str, where: str) -> DataError:
    """The error for a number that is none."""
    return DataError(
        f"{where}: {name} holds {value}, which is not a number that can be read.",
        hint="Leave the value out (null in JSON, an empty cell in CSV); if it is a word, put it in quotes.",
    )


def _check_text(text: str, name: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {name} has half of a surrogate pair, which is no character.") from error
