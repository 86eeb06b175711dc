"""One reader for every file of rows: what the file is, is told by what it holds, not by its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TypeVar

from landrace.data.byte_stream import PARQUET, file_head, numbered_lines, utf8_chunks
from landrace.data.columns import Columns
from landrace.data.csv_text import DELIMITERS, csv_rows
from landrace.data.faults import Faults
from landrace.data.json_array import json_array
from landrace.data.json_text import json_lines
from landrace.data.parquet import parquet_rows
from landrace.data.row import MAX_ROW_BYTES, BadRow, DataRow, check_values, kind
from landrace.errors import DataError

T = TypeVar("T")


def read_table(path: Path, parse: Callable[[DataRow], T], *, names: Mapping[str, str] | None = None) -> list[T]:
    """What `parse` makes of each row of the file, whose values are an object; `names` renames columns (old to new).

    Read are JSON Lines, a JSON array, CSV (comma, tab, semicolon or bar) and Parquet; the first three may be inside
    gzip and in UTF-8 or, with a byte order mark, UTF-16. Blank lines are left out. One DataError tells of all rows that
    cannot be read or that `parse` refuses by a DataError; a file that is broken as a whole is a DataError by itself.
    """
    columns = Columns(names or {})
    faults = Faults()
    results: list[T] = []
    for row in _rows(path):
        if isinstance(row, BadRow):
            faults.add(row.where, row.error)
            continue
        try:
            results.append(parse(_checked(row, columns)))
        except DataError as error:
            faults.add(row.where, error)
    columns.check_found(str(path))
    faults.raise_any()
    return results


def _checked(row: DataRow, columns: Columns) -> DataRow:
    if not isinstance(row.values, dict):
        raise DataError(
            f"{row.where}: the row is {kind(row.values)}, not an object.", hint='A row is an object: {"column": ...}.'
        )
    check_values(row.values, row.where)
    return DataRow(row.file, row.place, columns.rename(row.values, row.where))


def _rows(path: Path) -> Iterator[DataRow | BadRow]:
    if file_head(path).startswith(PARQUET):
        return parquet_rows(path)
    file = str(path)
    chunks = utf8_chunks(path)
    head = _head(chunks, file)
    chunks = chain([head], chunks)
    if head.lstrip().startswith(b"["):
        return json_array(chunks, file)
    lines = numbered_lines(chunks, file)
    return csv_rows(lines, file) if _is_csv(head, path) else json_lines(lines, file)


def _head(chunks: Iterator[bytes], file: str) -> bytes:
    """The beginning of the text, as much of it as tells what it is: a bracket, or the first line that is not blank."""
    head = bytearray()
    for chunk in chunks:
        head += chunk
        text = head.lstrip()
        if text.startswith((b"[", b"{")) or b"\n" in text:
            break
        if len(head) > MAX_ROW_BYTES:
            line = 1 + head[: len(head) - len(text)].count(b"\n")
            raise DataError(f"{file}, line {line}: the line is longer than {MAX_ROW_BYTES >> 20} MiB.")
    return bytes(head)


def _is_csv(head: bytes, path: Path) -> bool:
    """Whether the first line with text is a header. The name decides only where one word stands alone."""
    first = head.lstrip().partition(b"\n")[0].strip().decode("utf-8", "replace")
    if not first or first.startswith("{"):
        return False
    named = path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv"))
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return named or any(mark in first for mark in DELIMITERS)
    return named and first.startswith('"')
