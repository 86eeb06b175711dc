"""JSON, read strictly, and JSON Lines: a row a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from landrace.data.byte_stream import decoded
from landrace.data.row import BadRow, DataRow
from landrace.errors import DataError

_LINES = "In JSON Lines each line is one whole object; objects of several lines are read from a JSON array, [ ... ]."


class _RepeatedKeyError(ValueError):
    """An object has a key twice; the text is the key."""


def parse_json(text: str, where: str, *, first_line: int | None = None) -> Any:
    """The value of a JSON text, in which no object has a key twice. DataError says where it goes wrong: by column, or
    by the file's line too if `first_line` says on which one the text begins.

    NaN and Infinity pass as floats: `check_values` refuses them and can name the column.
    """
    thing, hint = ("line", _LINES) if first_line is None else ("row", None)
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        line = "" if first_line is None else f"line {first_line + error.lineno - 1}, "
        raise DataError(
            f"{where}: the {thing} is not JSON: {error.msg} at {line}column {error.colno}.",
            hint=hint,
        ) from error
    except _RepeatedKeyError as error:
        raise DataError(f"{where}: the key '{error}' occurs twice in one object.") from error
    except RecursionError as error:
        raise DataError(f"{where}: the {thing} is nested too deeply.") from error
    except ValueError as error:
        raise DataError(f"{where}: the {thing} has a number too long to be read.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedKeyError(next(name for name in names if names.count(name) > 1))
    return value


def json_lines(lines: Iterator[tuple[int, bytes]], file: str) -> Iterator[DataRow | BadRow]:
    """A row for each line that is not blank."""
    for number, line in lines:
        place = f"line {number}"
        try:
            text = decoded(line, f"{file}, {place}")
            if text.strip():
                yield DataRow(file, place, parse_json(text.strip(), f"{file}, {place}"))
        except DataError as error:
            yield BadRow(f"{file}, {place}", error)
