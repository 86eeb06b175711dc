"""JSON, read strictly, and JSON Lines: a row a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from landrace.data.byte_stream import decoded
from landrace.data.row import BadRow, DataRow
from landrace.errors import DataError

_LINES = "In JSON Lines each line is one whole object; objects of several lines are read from a JSON array, [ ... ]."


class RepeatedKeyError(ValueError):
    """An object has a key twice, so that nobody can say which of its values is meant."""


def strict_loads(text: str) -> Any:
    """The value of a JSON text. ValueError where it is no JSON or has a key twice, RecursionError where it is too deep.

    NaN and Infinity pass as floats: `check_values` refuses them and can name the column.
    """
    return json.loads(text, object_pairs_hook=_unique)


def read_json_object(path: Path, what: str) -> dict[str, Any]:
    """The object in a JSON file, which errors call `what`. DataError for a file that cannot be read or holds no
    object."""
    try:
        found = strict_loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"The {what} {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"The {what} {path} is not valid JSON: {error}.") from error
    if not isinstance(found, dict):
        raise DataError(f"The {what} {path} is not a JSON object.")
    return found


def parse_json(text: str, where: str, *, first_line: int | None = None) -> Any:
    """`strict_loads` of a row. DataError says where it goes wrong: by column, or by the file's line too if `first_line`
    says on which one the text begins."""
    thing, hint = ("line", _LINES) if first_line is None else ("row", None)
    try:
        return strict_loads(text)
    except json.JSONDecodeError as error:
        line = "" if first_line is None else f"line {first_line + error.lineno - 1}, "
        raise DataError(
            f"{where}: the {thing} is not JSON: {error.msg} at {line}column {error.colno}.", hint=hint
        ) from error
    except RepeatedKeyError as error:
        raise DataError(f"{where}: {error}.") from error
    except RecursionError as error:
        raise DataError(f"{where}: the {thing} is nested too deeply.") from error
    except ValueError as error:
        raise DataError(f"{where}: the {thing} has a number too long to be read.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise RepeatedKeyError(f"the key '{name}' occurs twice in one object")
            seen.add(name)
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
