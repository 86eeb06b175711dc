"""`UsageQueue`: which usage is where: in memory, on a spill file, or in the ledger. Nothing is lost that fits anywhere,
and nothing is stored twice, whatever fails when."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from landrace.errors import DataError, LedgerUnavailableError
from landrace.ledger import Run, Usage
from landrace.ledger.usage_rows import row_of_usage
from landrace.server.usage_spill import SpillFile, SpillFolder

_BATCH = 500
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UsageState:
    """How the recording of usage stands; counts are of requests."""

    status: Literal["ok", "degraded"] = "ok"
    """Degraded as long as the ledger does not take what it should."""
    reason: str | None = None
    waiting: int = 0
    """In memory: on their way to the ledger, or without room on a spill file."""
    spilled: int = 0
    """On spill files, to be taken up once the ledger is well again."""
    lost: int = 0
    """There was no room for them anywhere."""
    refused: int = 0
    """The ledger can never take them; the log has them."""


class UsageQueue:
    """`put` and `state` are for any thread; `write` and `spill` for the one that writes; `abandon` for when that hangs.

    Storing has to be repeatable: a batch whose fate is unknown is stored again.
    """

    def __init__(
        self, run: Run, store: Callable[[Run, Sequence[Usage]], None], folder: SpillFolder, most_waiting: int = 50_000
    ) -> None:
        """`store` raises LedgerUnavailableError for later, DataError for never. `most_waiting`: rows in memory."""
        self._run = run
        self._store = store
        self._folder = folder
        self._most_waiting = most_waiting
        self._lock = threading.Lock()
        self._waiting: deque[Usage] = deque()
        self._own: SpillFile | None = None
        self._spills = folder.left()
        """All files with something to take up, the own one among them."""
        self._reason: str | None = None
        self._lost = self._refused = 0
        self._abandoned = False

    @property
    def state(self) -> UsageState:
        with self._lock:
            status: Literal["ok", "degraded"] = "ok" if self._reason is None else "degraded"
            spilled = sum(file.pending for file in self._spills)
            return UsageState(status, self._reason, len(self._waiting), spilled, self._lost, self._refused)

    @property
    def spill_files(self) -> list[str]:
        return [str(file.path) for file in self._spills if file.pending]

    def put(self, rows: Sequence[Usage]) -> None:
        good = [row for row in rows if self._can_be_stored(row)]
        with self._lock:
            room = max(self._most_waiting - len(self._waiting), 0)
            self._waiting.extend(good[:room])
            self._lost += len(good[room:])

    def write(self, may_go_on: Callable[[], bool] = lambda: True) -> bool:
        """Stores all that waits and was spilled, as long as it `may_go_on`; True: there is nothing left. What the
        ledger does not take now is on a spill file afterwards, as far as it fits."""
        try:
            while may_go_on() and (batch := self._first(_BATCH)):
                self._store_what_can_be(self._run, batch)
                if not self._drop(len(batch)):
                    return False
            while may_go_on() and self._spills:
                self._take_up(self._spills[0])
        except LedgerUnavailableError as error:
            self._note(f"The ledger cannot be written: {error.reason}.")
            self.spill()
            return False
        except OSError as error:
            self._note(f"A spill file cannot be read: {error.strerror or error}.")
            return False
        self._note(None)
        return not (self._first(1) or self._spills)

    def spill(self) -> None:
        """Moves what is in memory to the spill file, as far as it fits."""
        self._drop(self._append(self._first(self._most_waiting)))

    def abandon(self) -> None:
        """Takes everything in memory from a writer that hangs, and spills it to a new file. The writer changes nothing
        any more; what it stores after all is stored once, as everything is."""
        with self._lock:
            self._abandoned = True
            self._own = None
            rows = list(self._waiting)
        spilled = self._append(rows)
        with self._lock:
            self._waiting = deque(rows[spilled:])

    def close(self) -> None:
        """Lets go of the spill files, which stay."""
        for file in self._spills:
            file.close()

    def _take_up(self, file: SpillFile) -> None:
        portion = file.read(_BATCH)
        self._store_what_can_be(file.run, portion.rows)
        file.forget(portion)
        if not file.pending:
            with self._lock:
                self._spills.remove(file)
            if file is self._own:
                self._own = None
            file.remove()

    def _store_what_can_be(self, run: Run, rows: Sequence[Usage]) -> None:
        """Raises LedgerUnavailableError."""
        try:
            self._store(run, rows)
        except LedgerUnavailableError:
            raise
        except DataError as error:
            if len(rows) > 1:  # one of them makes the ledger refuse them all
                for row in rows:
                    self._store_what_can_be(run, [row])
            elif rows:
                self._refuse(rows[0], error)

    def _can_be_stored(self, row: Usage) -> bool:
        try:
            row_of_usage(row)
        except DataError as error:
            self._refuse(row, error)
            return False
        return True

    def _refuse(self, row: Usage, error: DataError) -> None:
        with self._lock:
            self._refused += 1
        _log.error("The ledger refused the usage of a request: %s %r", error.message, row)

    def _append(self, rows: Sequence[Usage]) -> int:
        """Puts rows on the spill file, from the first; how many fit."""
        done, size = 0, _BATCH
        while piece := rows[done : done + size]:
            try:
                self._spill_file().append(piece)
            except OSError:
                if len(piece) == 1:
                    break
                size = len(piece) // 2
            else:
                done += len(piece)
        return done

    def _spill_file(self) -> SpillFile:
        if self._own is None:
            self._own = self._folder.new(self._run)
            with self._lock:
                self._spills.append(self._own)
        return self._own

    def _first(self, count: int) -> list[Usage]:
        with self._lock:
            return [] if self._abandoned else list(islice(self._waiting, count))

    def _drop(self, count: int) -> bool:
        """False where another has taken over."""
        with self._lock:
            if not self._abandoned:
                for _ in range(count):
                    self._waiting.popleft()
            return not self._abandoned

    def _note(self, reason: str | None) -> None:
        with self._lock:
            before, self._reason = self._reason, reason
        if reason is not None and before is None:
            _log.warning("%s Usage is kept until it can be.", reason)
        elif reason is None and before is not None:
            _log.warning("The ledger takes usage again.")
