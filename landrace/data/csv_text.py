"""CSV and its kin: a header, then a row a record; quotes as spreadsheets write them (RFC 4180).

Cells are text, always: "007" stays "007".
"""

from __future__ import annotations

from collections.abc import Iterator

from landrace.data.byte_stream import decoded
from landrace.data.row import MAX_ROW_BYTES, BadRow, DataRow, not_finite
from landrace.errors import DataError

DELIMITERS = ",\t;|"
MAX_COLUMNS = 4096
NOT_FINITE = frozenset({"nan", "inf", "infinity", "+inf", "-inf", "-infinity", "-nan"})
"""Cells that, unquoted, are what programs write for a number that is none."""


class _Record:
    """The cells of one record, which grows until its quotes are closed."""

    def __init__(self, first_line: int, delimiter: str) -> None:
        self.first_line = first_line
        self.cells: list[str] = []
        self.bare: list[bool] = []
        """Whether each cell stood without quotes."""
        self._fault: str | None = None
        self._undecodable: DataError | None = None
        self._delimiter = delimiter
        self._quoted: list[str] | None = None
        self._size = 0

    @property
    def is_open(self) -> bool:
        return self._quoted is not None

    def finished(self, where: str) -> list[str]:
        """The cells, once no quote is open; DataError if they are not what the lines say."""
        if self._undecodable is not None:
            raise self._undecodable
        if self._fault is not None:
            raise DataError(f"{where}: {self._fault}.", hint='Inside quotes a quote is written twice: "say ""yes""".')
        return self.cells

    def add(self, raw: bytes, where: str, line_where: str) -> None:
        """One more line, with its ending. DataError if the record, which begins at `where`, is too long."""
        try:
            line = decoded(raw, line_where)
        except DataError as error:
            self._undecodable = error
            line = raw.decode("utf-8", "replace")
        self._size += len(raw)
        if self._size > MAX_ROW_BYTES:
            raise DataError(
                f"{where}: the row is longer than {MAX_ROW_BYTES >> 20} MiB.", hint="Is a quote closed that opens here?"
            )
        at, end = 0, len(line.removesuffix("\n").removesuffix("\r"))
        while self._fault is None:
            if self._quoted is None:
                if line.startswith('"', at):
                    self._quoted, at = [], at + 1
                    continue
                stop = line.find(self._delimiter, at, end)
                stop = end if stop == -1 else stop
                self._cell(line[at:stop], bare=True)
            else:
                stop = line.find('"', at)
                if stop == -1:
                    self._quoted.append(line[at:])
                    return
                self._quoted.append(line[at:stop])
                stop += 1
                if line.startswith('"', stop):
                    self._quoted.append('"')
                    at = stop + 1
                    continue
                self._cell("".join(self._quoted), bare=False)
                self._quoted = None
                if stop < end and line[stop] != self._delimiter:
                    self._fault = "there is text behind a closing quote"
            if stop >= end:
                return
            at = stop + 1

    def _cell(self, text: str, *, bare: bool) -> None:
        self.cells.append(text)
        self.bare.append(bare)
        if len(self.cells) > MAX_COLUMNS:
            self._fault = f"there are more than {MAX_COLUMNS} cells"


def csv_rows(lines: Iterator[tuple[int, bytes]], file: str) -> Iterator[DataRow | BadRow]:
    """A row for each record behind the header, known by the line on which it begins. The delimiter is the one of
    DELIMITERS that the header has most of. DataError for a header that cannot be used."""
    header: list[str] | None = None
    record: _Record | None = None
    delimiter = ","
    for number, line in lines:
        if record is None:
            if not line.strip():
                continue
            if header is None:
                delimiter = _delimiter(line.decode("utf-8", "replace"), f"{file}, line {number}")
            record = _Record(number, delimiter)
        where = f"{file}, line {record.first_line}"
        record.add(line, where, f"{file}, line {number}")
        if record.is_open:
            continue
        if header is None:
            header = _header(record.finished(where), where)
        else:
            try:
                yield DataRow(file, f"line {record.first_line}", _values(header, record, where))
            except DataError as error:
                yield BadRow(where, error)
        record = None
    if record is not None:
        raise DataError(f"{file}, line {record.first_line}: a quote that opens here is never closed.")


def _delimiter(header: str, where: str) -> str:
    outside = "".join(header.split('"')[::2])
    counts = {mark: outside.count(mark) for mark in DELIMITERS}
    most = max(counts.values())
    marks = [mark for mark, count in counts.items() if count == most]
    if most and len(marks) > 1:
        raise DataError(f"{where}: the header has as many {marks[0]!r} as {marks[1]!r}, so either may part columns.")
    return marks[0]


def _header(cells: list[str], where: str) -> list[str]:
    names = [name.strip() for name in cells]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{where}: the header names the column '{name}' twice.")
        if "\r" in name:
            raise DataError(
                f"{where}: the lines end in a carriage return alone.", hint="Save the file with line feeds."
            )
    return names


def _values(header: list[str], record: _Record, where: str) -> dict[str, str]:
    cells = record.finished(where)
    if len(cells) != len(header):
        raise DataError(
            f"{where}: the row has {len(cells)} cells and the header {len(header)}.",
            hint="A cell that holds the delimiter or a line break stands in quotes.",
        )
    for name, cell, bare in zip(header, cells, record.bare, strict=True):
        if bare and cell.strip().casefold() in NOT_FINITE:
            raise not_finite(f"'{name}'", cell.strip(), where)
    return dict(zip(header, cells, strict=True))
