"""Parquet, read with pyarrow where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from landrace.data.byte_stream import FREE_EXPANSION_BYTES, MAX_EXPANSION
from landrace.data.row import MAX_ROW_BYTES, BadRow, DataRow
from landrace.errors import DataError, UnsupportedError

_BATCH_ROWS = 16


def parquet_rows(path: Path) -> Iterator[DataRow | BadRow]:
    """A row for each of the file's, nulls left out as absent, dates and decimals as text. UnsupportedError without
    pyarrow, DataError for a file that is damaged or unpacks to more than MAX_EXPANSION times its size."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet
    except ImportError as error:
        raise UnsupportedError(
            f"{path} is Parquet, which needs pyarrow.",
            hint="Run `pip install pyarrow`, or write the rows as JSON Lines.",
        ) from error
    number = 0
    try:
        with arrow.parquet.ParquetFile(path) as file:
            _check_size(path, file.metadata)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield _row(path, f"row {number}", values)
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}, row {number + 1}: the Parquet file cannot be read: {_first_line(error)}.") from error


def _check_size(path: Path, metadata: Any) -> None:
    size = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    if size > FREE_EXPANSION_BYTES and size > MAX_EXPANSION * path.stat().st_size:
        raise DataError(f"{path} unpacks to more than {MAX_EXPANSION} times its size.")


def _row(path: Path, place: str, values: dict[str, Any]) -> DataRow | BadRow:
    row = DataRow(str(path), place, _plain(values))
    if _size(row.values) > MAX_ROW_BYTES:
        error = DataError(f"{row.where}: the row is longer than {MAX_ROW_BYTES >> 20} MiB.")
        return BadRow(row.where, error)
    return row


def _plain(value: Any) -> Any:
    """The value as JSON would have it. Bytes stay bytes: a row may carry them in a column that nobody asks for."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    if isinstance(value, list):
        return sum(map(_size, value))
    return len(value) if isinstance(value, str | bytes) else 1


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")
