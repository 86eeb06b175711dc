"""The lines of a batch: what its file asks, and the journal of what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landrace.server.http.body_limit import MAX_BODY_BYTES

MAX_LINES = 50_000
MAX_FAULTS = 20
"""So many faults of a file are told."""
_KEYS = {"custom_id", "method", "url", "body"}


@dataclass(frozen=True)
class Line:
    """One call of a batch."""

    custom_id: str
    body: bytes
    """JSON."""


class BatchFileError(Exception):
    """The file cannot be a batch. `faults` are as the API tells them."""

    def __init__(self, faults: list[dict[str, Any]]) -> None:
        super().__init__(faults[0]["message"])
        self.faults = faults


def fault(
    message: str, *, code: str | None = None, line: int | None = None, param: str | None = None
) -> dict[str, Any]:
    """One entry of a batch's errors."""
    return {"code": code, "line": line, "message": message, "param": param}


def read_lines(file: Path, endpoint: str) -> list[Line]:
    """Every line, checked. Raises BatchFileError."""
    lines: list[Line] = []
    seen: set[str] = set()
    faults: list[dict[str, Any]] = []
    for number, raw in _numbered(file):
        if len(lines) == MAX_LINES:
            faults.append(fault(f"A batch has {MAX_LINES:,} lines at most.", code="too_many_lines", line=number))
            break
        found = _line(raw, endpoint)
        if isinstance(found, str):
            faults.append(fault(found, code="invalid_line", line=number))
        elif found.custom_id in seen:
            faults.append(
                fault(f"custom_id {found.custom_id!r} is used twice.", code="duplicate_custom_id", line=number)
            )
        else:
            seen.add(found.custom_id)
            lines.append(found)
        if len(faults) == MAX_FAULTS:
            break
    if not (lines or faults):
        faults.append(fault("The file has no line.", code="empty_file", line=1))
    if faults:
        raise BatchFileError(faults)
    return lines


def _numbered(file: Path) -> Iterator[tuple[int, bytes]]:
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            if raw.strip():
                yield number, raw


def _line(raw: bytes, endpoint: str) -> Line | str:
    """The line, or what is wrong with it."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return "The line is not valid JSON."
    if not isinstance(value, dict):
        return "The line is not a JSON object."
    unknown = sorted(value.keys() - _KEYS)
    if unknown:
        return f"There is no field {unknown[0]!r} here."
    custom_id, body = value.get("custom_id"), value.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        return "custom_id must be a text."
    if value.get("method") != "POST":
        return "method must be POST."
    if value.get("url") != endpoint:
        return f"url must be {endpoint}, the endpoint of the batch."
    if not isinstance(body, dict):
        return "body must be an object."
    if body.get("stream"):
        return "body.stream cannot be true: a batch has no streams."
    written = json.dumps(body).encode()
    if len(written) > MAX_BODY_BYTES:
        return f"body has more than {MAX_BODY_BYTES:,} bytes."
    return Line(custom_id, written)


class Journal:
    """What came of each line, in the order in which they ended; a death costs no line that is in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.succeeded: set[str] = set()
        self.failed: set[str] = set()
        whole = 0
        if path.exists():
            for entry, end in _whole_entries(path):
                self._count(entry)
                whole = end
        self._file = path.open("ab")
        self._file.truncate(whole)  # a line that a death cut off

    def __contains__(self, custom_id: str) -> bool:
        return custom_id in self.succeeded or custom_id in self.failed

    def add(self, entry: Mapping[str, Any]) -> None:
        """`entry` is a line of the output or of the error file."""
        self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        self._count(entry)

    def close(self) -> None:
        self._file.close()

    def entries(self, *, succeeded: bool) -> Iterator[bytes]:
        """The lines of the output file, or of the error file."""
        for entry, _ in _whole_entries(self._path):
            if _succeeded(entry) == succeeded:
                yield json.dumps(entry, ensure_ascii=False).encode() + b"\n"

    def _count(self, entry: Mapping[str, Any]) -> None:
        (self.succeeded if _succeeded(entry) else self.failed).add(entry["custom_id"])


def _whole_entries(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each entry, and where in the file it ends."""
    end = 0
    with path.open("rb") as stream:
        for raw in stream:
            if not raw.endswith(b"\n"):
                return
            end += len(raw)
            yield json.loads(raw), end


def _succeeded(entry: Mapping[str, Any]) -> bool:
    response = entry["response"]
    return response is not None and response["status_code"] == 200
