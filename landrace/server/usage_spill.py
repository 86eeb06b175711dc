"""Spill files: usage that the ledger cannot take at the moment, on a disk, for this server or the next to take up."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

from landrace.checkpoints.store import default_home
from landrace.ledger import Run, Usage
from landrace.ledger.place import place_of
from landrace.ledger.run_rows import row_of_run, run_of_row
from landrace.ledger.usage_rows import row_of_usage, usage_of_row

MOST_BYTES = 256 << 20
"""Of one file: about half a million requests."""
_READ_BYTES = 1 << 20


class Portion(NamedTuple):
    """What was read of a spill file at once."""

    rows: list[Usage]
    lines: int
    """Those that could not be read among them."""
    end: int
    """The place behind them."""


class SpillFile:
    """The run, then its requests, a JSON line each. Whoever has it open holds a lock on it until the process ends.

    A line counts once it is on the disk with its end; what a crash or a full disk cut off is overwritten by the next
    line, or left out when the file is read.
    """

    def __init__(self, path: Path, descriptor: int, run: Run, start: int, end: int, pending: int) -> None:
        self.path = path
        self.run = run
        self.pending = pending
        """Lines that are not in the ledger yet."""
        self._descriptor = descriptor
        self._taken = start
        self._end = end
        self._unreadable = 0

    @classmethod
    def create(cls, path: Path, run: Run) -> Self:
        """Raises OSError, and leaves no file then."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            heading = _line(row_of_run(run))
            write_durably(descriptor, heading, 0)
            _sync_folder(path.parent)
        except BaseException:
            _remove(path)
            os.close(descriptor)
            raise
        return cls(path, descriptor, run, len(heading), len(heading), 0)

    @classmethod
    def take_up(cls, path: Path) -> Self | None:
        """A file that another server left; None while that server lives, and for what is no spill file.

        Raises OSError.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lines, end = _measure(descriptor)
            heading = os.pread(descriptor, end, 0).partition(b"\n")[0] if lines else b""
            run = run_of_row(SimpleNamespace(**json.loads(heading), id=0, ended=None))
        except (BlockingIOError, ValueError, TypeError, AttributeError):
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        return cls(path, descriptor, run, len(heading) + 1, end, lines - 1)

    def append(self, rows: Sequence[Usage]) -> None:
        """Raises OSError where they are not on the disk, or would make the file too long; none of them counts then."""
        data = b"".join(_line(row_of_usage(row)) for row in rows)
        if self._end + len(data) > MOST_BYTES:
            raise OSError(errno.EFBIG, "the spill file is full")
        try:
            write_durably(self._descriptor, data, self._end)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            raise
        self._end += len(data)
        self.pending += len(rows)

    def read(self, most: int) -> Portion:
        """The next lines that are not in the ledger yet, at most so many. Raises OSError."""
        rows: list[Usage] = []
        lines, place = 0, self._taken
        for line in islice(self._lines(), most):
            lines, place = lines + 1, place + len(line)
            with contextlib.suppress(ValueError, TypeError, AttributeError):
                rows.append(usage_of_row(SimpleNamespace(**json.loads(line))))
        if self.pending and not lines:
            raise OSError(errno.EIO, "the spill file was cut off")
        return Portion(rows, lines, place)

    def forget(self, portion: Portion) -> None:
        """The ledger has them now."""
        self._taken = portion.end
        self.pending -= portion.lines
        self._unreadable += portion.lines - len(portion.rows)

    def remove(self) -> None:
        """Ends it. One with lines that could not be read is kept under another name, for a person to look at."""
        if self._unreadable:
            with contextlib.suppress(OSError):
                self.path.rename(self.path.with_suffix(".unreadable"))
        else:
            _remove(self.path)
        self.close()

    def close(self) -> None:
        """Lets others take it up."""
        os.close(self._descriptor)

    def _lines(self) -> Iterator[bytes]:
        """Those that are not in the ledger yet."""
        place, rest = self._taken, b""
        while place < self._end and (block := os.pread(self._descriptor, min(_READ_BYTES, self._end - place), place)):
            place += len(block)
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                yield line + b"\n"


class SpillFolder:
    """Where the servers of one ledger put what it cannot take: files beside each other, one for each server."""

    def __init__(self, ledger: str, folder: Path | None) -> None:
        """`folder` None: the ledger file's own, or Landrace's for a ledger in PostgreSQL."""
        place = place_of(ledger)
        if place.file is not None:
            self._folder, self._name = folder or place.file.absolute().parent, place.file.name
        else:
            digest = hashlib.sha256(place.shown.encode("utf-8", "surrogateescape")).hexdigest()[:12]
            self._folder, self._name = folder or default_home(), f"postgresql-{digest}"

    def new(self, run: Run) -> SpillFile:
        """Raises OSError."""
        for number in range(1000):
            name = f"{self._name}-spill-{run.started:%Y%m%dT%H%M%S}-{os.getpid()}-{number}.jsonl"
            with contextlib.suppress(FileExistsError):
                return SpillFile.create(self._folder / name, run)
        raise FileExistsError(errno.EEXIST, "too many spill files", str(self._folder))

    def left(self) -> list[SpillFile]:
        """What other servers left, oldest first."""
        found: list[SpillFile] = []
        ours = re.compile(re.escape(self._name) + r"-spill-\d{8}T\d{6}-\d+-\d+\.jsonl")
        with contextlib.suppress(OSError):
            for path in sorted(self._folder.iterdir()):
                if ours.fullmatch(path.name):
                    with contextlib.suppress(OSError):
                        file = SpillFile.take_up(path)
                        if file is not None:
                            found.append(file)
        return found


def write_durably(descriptor: int, data: bytes, place: int) -> None:
    """Raises OSError where not all of it is on the disk."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, place)
        view, place = view[written:], place + written
    os.fsync(descriptor)


def _measure(descriptor: int) -> tuple[int, int]:
    """The number of whole lines, and the place behind the last."""
    place = lines = end = 0
    while block := os.pread(descriptor, _READ_BYTES, place):
        if b"\n" in block:
            lines, end = lines + block.count(b"\n"), place + block.rindex(b"\n") + 1
        place += len(block)
    return lines, end


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Where it cannot be, it is taken up again, which stores nothing twice."""
    with contextlib.suppress(OSError):
        path.unlink()
