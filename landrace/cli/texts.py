"""Texts as `embed` and `rerank` are given them: on the command line, on stdin or in a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from landrace.data import DataRow, kind, read_table
from landrace.errors import DataError, OptionError

COLUMN = "text"
STDIN = "-"

FileOption = Annotated[
    Path | None,
    typer.Option("--file", help="A file of texts: .txt with one a line, else JSON Lines, JSON, CSV or Parquet."),
]
ColumnOption = Annotated[
    str | None, typer.Option(help=f"The column of --file that holds the texts; default: {COLUMN}.")
]


def read_texts(given: Sequence[str], file: Path | None, column: str | None, what: str) -> list[str]:
    """The texts, one a line or row. `what`: what they are called. OptionError where they are named twice or not at all,
    DataError for a file without them."""
    if given and file is not None:
        raise OptionError(f"The {what} are on the command line and in --file.", hint="Leave one out.")
    if file is None or file.suffix.lower() == ".txt":
        if column is not None:
            raise OptionError("--column names a column of a --file, and there is none.", hint="Leave --column out.")
        if file is not None:
            return _lines(_read(file))
        if not given:
            raise OptionError(f"There are no {what}.", hint="Name some, - to read them from stdin, or --file.")
        return _lines(sys.stdin.read()) if list(given) == [STDIN] else list(given)
    wanted = column or COLUMN
    texts = read_table(file, lambda row: _text(row, wanted))
    if not texts:
        raise DataError(f"{file} has no rows.")
    return texts


def _lines(text: str) -> list[str]:
    lines = text.removesuffix("\n").split("\n")
    return [line.removesuffix("\r") for line in lines]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: byte {error.start + 1} cannot be read.") from None


def _text(row: DataRow, column: str) -> str:
    value = row.values.get(column)
    if isinstance(value, str):
        return value
    if column not in row.values:
        named = ", ".join(row.values) or "none"
        raise DataError(
            f"{row.where}: there is no column '{column}'.", hint=f"Choose one with --column; the row has {named}."
        )
    raise DataError(f"{row.where}: the column '{column}' holds {kind(value)}, not text.")
