"""Rows of a data file, each known by its line, and the hash of what was read."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from landrace.errors import DataError, OptionError

MAX_LINE_BYTES = 16 << 20


@dataclass(frozen=True)
class Row:
    """One question. `inputs` are the fields that the prompt is made of, `expected` the accepted answers, best first.

    `choice_names` are the letters (or other names) of an option's `choices`. `language` is that of the answer, "" if
    the row does not say.
    """

    id: str
    inputs: Mapping[str, str]
    expected: tuple[str, ...]
    groups: Mapping[str, str] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    choice_names: tuple[str, ...] = ()
    language: str = ""


@dataclass(frozen=True)
class TaskData:
    """The rows of one file (or list) and the SHA-256 of all of it, also when only a sample of the rows is kept."""

    rows: tuple[Row, ...]
    sha256: str
    source: str

    def sample(self, limit: int | None, seed: int) -> TaskData:
        """At most `limit` rows, drawn without replacement (files are often sorted), in the file's order."""
        if limit is None or limit >= len(self.rows):
            return self
        if limit < 1:
            raise OptionError(f"limit must be at least 1, not {limit}.")
        kept = sorted(random.Random(seed).sample(range(len(self.rows)), limit))
        return replace(self, rows=tuple(self.rows[index] for index in kept))


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file, line N", row) for every line that is not blank. Anything but a JSON object is a DataError."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file, path), start=1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if text.strip():
                    where = f"{path.name}, line {number}"
                    yield where, _json_object(text, where)
    except OSError as error:
        raise DataError(f"The data file {path} cannot be read: {error.strerror or error}.") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"The data file {path} cannot be read: {error.strerror or error}.") from error


def json_sha256(value: Any) -> str:
    """SHA-256 of a value's JSON with sorted keys and no spaces, in hex."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def check_ids(rows: Iterable[Row], source: str) -> None:
    """Row ids pair the answers of two systems, so one that comes twice is a DataError."""
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise DataError(f"{source}: the row id '{row.id}' occurs twice.", hint="Give every row an id of its own.")
        seen.add(row.id)


def _lines(file: Any, path: Path) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise DataError(f"{path.name} has a line of more than {MAX_LINE_BYTES >> 20} MiB.", hint="Is it JSONL?")
        yield line


def _json_object(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text (byte {error.start}).") from error
    except RecursionError as error:
        raise DataError(f"{where}: the JSON is nested too deeply.") from error
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: a row must be a JSON object, not {type(value).__name__}.")
    return value
