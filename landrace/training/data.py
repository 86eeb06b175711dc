"""Training rows from a file, or from values in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from landrace.data import DataRow, check_values, kind, read_table
from landrace.errors import DataError
from landrace.training.forms import FORMS, training_row
from landrace.training.rows import ChatRow, CompletionRow, ExcludedRow, Row, TextRow, rows_sha256

__all__ = [
    "ChatRow",
    "CompletionRow",
    "ExcludedRow",
    "Row",
    "TextRow",
    "parse_row",
    "read_rows",
    "rows_sha256",
]


def read_rows(path: Path, names: Mapping[str, str] | None = None) -> list[Row]:
    """All rows of a file of any container that `landrace.data` reads; forms may be mixed. `names` renames columns.

    One DataError names the rows that cannot be used by file and line.
    """

    def parse(row: DataRow) -> Row:
        return training_row(row.values, row.where)

    rows = read_table(path, parse, names=names)
    if not rows:
        raise DataError(f"{path} has no rows.", hint=FORMS)
    return rows


def parse_row(value: object, where: str) -> Row:
    """One row from its JSON value. `where` (file and line) goes into the DataError."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: the row is {kind(value)}, not an object.", hint=FORMS)
    check_values(value, where)
    return training_row(value, where)
