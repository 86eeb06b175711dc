"""The questions of a task, and the hash of what they were read from."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from landrace.errors import DataError, OptionError


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
