"""A JSON array of rows, cut into its elements as it comes: memory holds one of them, not the file."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from landrace.data.json_text import parse_json
from landrace.data.row import MAX_DEPTH, MAX_ROW_BYTES, BadRow, DataRow
from landrace.errors import DataError

_OUTSIDE_STRINGS = re.compile(r'["\[\]{},]')
_INSIDE_STRINGS = re.compile(r'["\\]')
_OPENED_BY = {"}": "{", "]": "["}


def json_array(chunks: Iterator[bytes], file: str) -> Iterator[DataRow | BadRow]:
    """A row for each element of the array that the UTF-8 text is. An element that is no JSON is a BadRow; DataError if
    the array ends too early, goes on behind its end, or its brackets do not match."""
    for number, (text, line) in enumerate(_Elements(file).cut(chunks), start=1):
        place = f"row {number}"
        where = f"{file}, {place}"
        try:
            yield DataRow(file, place, parse_json(text, where, first_line=line))
        except DataError as error:
            yield BadRow(where, error)


class _Elements:
    """Finds the elements by quotes, brackets and commas alone; what is between them is parsed later."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._row = 1
        self._brackets: list[str] = []
        """Those open now; the array's own is the first."""
        self._in_string = self._after_backslash = self._ended = False
        self._parts: list[str] = []
        """The text of the element so far."""
        self._size = 0
        self._line = 1
        """Where the text in `_parts` begins."""

    def cut(self, chunks: Iterator[bytes]) -> Iterator[tuple[str, int]]:
        """Each element's text, and the line it begins on."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        for chunk in chunks:
            try:
                text = decoder.decode(chunk)
            except UnicodeDecodeError as error:
                yield from self._marks(error.object[: error.start].decode())
                raise self._error(f"line {self._line_after('')} is not UTF-8", "Save the file as UTF-8.") from error
            yield from self._marks(text)
        if not self._ended:
            raise self._error(
                f"the JSON array ends in line {self._line_after('')} without its ']'",
                "The file is cut off: fetch or write it again.",
            )

    def _marks(self, text: str) -> Iterator[tuple[str, int]]:
        start = at = 0
        while at < len(text):
            if self._after_backslash:
                self._after_backslash = False
                at += 1
                continue
            found = (_INSIDE_STRINGS if self._in_string else _OUTSIDE_STRINGS).search(text, at)
            if found is None or self._ended:
                break
            mark, at = found[0], found.end()
            if mark == "\\":
                self._after_backslash = True
            elif mark == '"':
                self._in_string = not self._in_string
            elif mark in "[{":
                self._open(mark)
                if len(self._brackets) == 1:
                    self._take(text[start:at])
                    start = at
            elif mark == ",":
                if len(self._brackets) == 1:
                    yield self._finish(text[start : at - 1])
                    start = at
            else:
                self._close(mark, text[start:at])
                if not self._brackets:
                    element = self._finish(text[start : at - 1])
                    start = at
                    self._ended = True
                    # "[]" has no element; "[1, ]" has an empty one, which is refused.
                    if element[0] or self._row > 2:
                        yield element
        self._keep(text[start:])

    def _open(self, mark: str) -> None:
        self._brackets.append(mark)
        if len(self._brackets) > MAX_DEPTH:
            raise self._error("the JSON is nested too deeply", None)

    def _close(self, mark: str, read: str) -> None:
        if self._brackets.pop() != _OPENED_BY[mark]:
            raise self._error(f"the '{mark}' in line {self._line_after(read)} closes a bracket of another kind", None)

    def _keep(self, text: str) -> None:
        if self._ended and text.strip():
            raise DataError(
                f"{self._file}: the JSON array ends in line {self._line}, but there is more text behind it.",
                hint="A file is one JSON array, or JSON Lines with one object a line.",
            )
        self._parts.append(text)
        self._size += len(text)
        if self._size > MAX_ROW_BYTES:
            raise self._error(f"the row is longer than {MAX_ROW_BYTES >> 20} MiB", None)

    def _take(self, text: str) -> str:
        """All that was kept and `text`; nothing is kept any more."""
        self._keep(text)
        whole = "".join(self._parts)
        self._line += whole.count("\n")
        self._parts.clear()
        self._size = 0
        return whole

    def _finish(self, text: str) -> tuple[str, int]:
        first = self._line
        whole = self._take(text)
        self._row += 1
        return whole.strip(), first + whole[: len(whole) - len(whole.lstrip())].count("\n")

    def _line_after(self, text: str) -> int:
        return self._line + sum(part.count("\n") for part in (*self._parts, text))

    def _error(self, message: str, hint: str | None) -> DataError:
        return DataError(f"{self._file}, row {self._row}: {message}.", hint=hint)
