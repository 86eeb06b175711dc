"""The text of a file as UTF-8 bytes: gzip unpacked, UTF-16 read, byte order marks gone, piece by piece."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from landrace.data.row import MAX_ROW_BYTES
from landrace.errors import DataError

CHUNK_BYTES = 1 << 16
MAX_EXPANSION = 200
"""Text packs to a fiftieth at the best. What grows more than this is a bomb, or nothing but repetition."""
FREE_EXPANSION_BYTES = 16 << 20
"""Unpacked bytes below which any ratio is allowed."""

GZIP = b"\x1f\x8b"
PARQUET = b"PAR1"
_BOMS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, which it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHERS = {
    b"PK\x03\x04": ("a ZIP archive or an Excel workbook", "Unpack it, or save the sheet as CSV."),
    b"BZh": ("bzip2", "Unpack it with bunzip2, or pack it with gzip."),
    b"\xfd7zXZ": ("xz", "Unpack it with unxz, or pack it with gzip."),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "Unpack it with unzstd, or pack it with gzip."),
    b"ARROW1": ("Arrow", "Write it as Parquet or JSON Lines."),
    b"SQLite format 3": ("an SQLite database", "Export the table as CSV."),
    b"%PDF": ("a PDF", "Give rows of text, as JSON Lines, say."),
}


def file_head(path: Path) -> bytes:
    """The first bytes of a file as it lies there. DataError if it cannot be read, or is of a form that is known and
    not read here."""
    try:
        if path.is_fifo() or path.is_char_device():
            # It is read twice: what it is, then what it says.
            raise DataError(f"{path} is a pipe or a device, not a file.", hint="Write the rows to a file first.")
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise _unreadable(path, error) from error
    _refuse_other_forms(head, path)
    return head


def utf8_chunks(path: Path) -> Iterator[bytes]:
    """The file's text as UTF-8 bytes without a byte order mark, in pieces of at most a few times CHUNK_BYTES.

    Bytes that are no UTF-8 pass as they are: whoever decodes them knows the line. DataError names the place where a
    gzip ends too early, is damaged, or unpacks to more than MAX_EXPANSION times its size.
    """
    head = file_head(path)
    chunks = _unpacked(path) if head.startswith(GZIP) else _stored(path)
    first = next(chunks, b"")
    if head.startswith(GZIP):
        if first.startswith((GZIP, PARQUET)):
            raise DataError(f"{path} is packed twice, or is Parquet inside gzip.", hint="Unpack it once with gunzip.")
        _refuse_other_forms(first, path)
    encoding = next((name for bom, name in _BOMS.items() if first.startswith(bom)), None)
    if encoding is not None:
        yield from _transcoded(first, chunks, encoding, path)
        return
    yield first.removeprefix(codecs.BOM_UTF8)
    yield from chunks


def numbered_lines(chunks: Iterator[bytes], file: str) -> Iterator[tuple[int, bytes]]:
    """Lines with their endings and their numbers from 1. Only a line feed ends a line. DataError for a line longer
    than MAX_ROW_BYTES."""
    number, rest = 1, b""
    for chunk in chunks:
        *whole, last = chunk.split(b"\n")
        for piece in whole:
            line = rest + piece + b"\n"
            rest = b""
            yield number, line
            number += 1
        rest += last
        if len(rest) > MAX_ROW_BYTES:
            raise DataError(f"{file}, line {number}: the line is longer than {MAX_ROW_BYTES >> 20} MiB.")
    if rest:
        yield number, rest


def decoded(line: bytes, where: str) -> str:
    """The text of one line; DataError if it is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: the line is not UTF-8 (byte {error.start + 1}).", hint="Save the file as UTF-8."
        ) from error


def _stored(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise _unreadable(path, error) from error


def _unpacked(path: Path) -> Iterator[bytes]:
    lines, size = 1, 0
    try:
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as file:
            while chunk := file.read(CHUNK_BYTES):
                size += len(chunk)
                if size > FREE_EXPANSION_BYTES and size > MAX_EXPANSION * raw.tell():
                    raise DataError(
                        f"{path}, line {lines}: the gzip unpacks to more than {MAX_EXPANSION} times its size.",
                        hint="If you trust the file, unpack it yourself with gunzip.",
                    )
                yield chunk
                lines += chunk.count(b"\n")
    except EOFError as error:
        raise DataError(f"{path}, line {lines}: the gzip ends here, in the middle.", hint="Fetch it again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}, line {lines}: the gzip is damaged: {error}.", hint="Fetch it again.") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _transcoded(first: bytes, chunks: Iterator[bytes], encoding: str, path: Path) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    lines = 1
    try:
        for chunk in chain([first], chunks):
            text = decoder.decode(chunk)
            yield text.encode("utf-8")
            lines += text.count("\n")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: the text is not {encoding.upper()}, as its first bytes say, from line {lines} on.",
            hint="Save the file as UTF-8.",
        ) from error


def _refuse_other_forms(head: bytes, path: Path) -> None:
    for magic, (name, cure) in _OTHERS.items():
        if head.startswith(magic):
            raise DataError(f"{path} is {name}, which is not read.", hint=cure)


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"The data file {path} cannot be read: {error.strerror or error}.")
