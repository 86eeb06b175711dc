"""One SQLite connection behind a lock: opened safely, checked to be ours, brought to the present schema."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from landrace.errors import DataError
from landrace.ledger.schema import APPLICATION_ID, MIGRATIONS

_BUSY_SECONDS = 30.0
_RETRY_SECONDS = 0.05
_MAGIC = b"SQLite format 3\0"


class Connection:
    """Shared by the threads of a process; one transaction at a time. Do not carry it over a fork.

    WAL with synchronous=FULL: a commit is on the disk when it returns, so an acknowledged row survives the
    death of the process and of the machine alike. (NORMAL would survive only the first.) The price is one disk
    flush a commit, which is why rows that come often are added in batches.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        with self._clear_errors():
            _refuse_other_files(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sqlite = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=64
            )
        try:
            with self._clear_errors():
                self._open()
        except BaseException:
            self._sqlite.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._sqlite.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Cursor]:
        """All or nothing: committed when the block ends, rolled back when it raises."""
        with self._lock, self._clear_errors():
            cursor = self._sqlite.cursor()
            # IMMEDIATE: a transaction that begins as a reader can fail halfway when another process writes.
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                if self._sqlite.in_transaction:
                    cursor.execute("ROLLBACK")
                raise
            finally:
                cursor.close()

    def rows(self, statement: str, values: tuple[object, ...] = ()) -> list[sqlite3.Row]:
        with self._lock, self._clear_errors():
            return self._sqlite.execute(statement, values).fetchall()

    def _open(self) -> None:
        self._sqlite.row_factory = sqlite3.Row
        self._sqlite.execute("PRAGMA foreign_keys = ON")
        # Everything up to here and in the next line only reads: a file that is not ours is left as it is.
        self._refuse_foreign_file()
        self._use_wal()
        self._sqlite.execute("PRAGMA synchronous = FULL")
        self._migrate()

    def _refuse_foreign_file(self) -> None:
        # One read transaction, so that a ledger which another process makes right now is seen whole or not at all.
        self._sqlite.execute("BEGIN")
        try:
            application, version = self._number("application_id"), self._number("user_version")
            has_tables = self._sqlite.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None
        finally:
            self._sqlite.execute("ROLLBACK")
        if application not in (0, APPLICATION_ID) or (application == 0 and (version or has_tables)):
            raise DataError(
                f"{self.path} is a database of another program, not a ledger.",
                hint="It was left as it is. Name another file for the ledger.",
            )
        if version > len(MIGRATIONS):
            raise DataError(
                f"The ledger {self.path} has schema version {version}; this landrace knows versions up to "
                f"{len(MIGRATIONS)}.",
                hint="It was written by a newer landrace and left as it is: upgrade landrace, or name another file.",
            )

    def _use_wal(self) -> None:
        # Switching to WAL needs the file alone for an instant, and SQLite does not wait for that by itself.
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._sqlite.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(_RETRY_SECONDS)

    def _migrate(self) -> None:
        if self._number("user_version") == len(MIGRATIONS):
            return
        with self.transaction() as cursor:
            # Read again inside the transaction: another process may have migrated meanwhile.
            for version in range(self._number("user_version"), len(MIGRATIONS)):
                for statement in MIGRATIONS[version]:
                    cursor.execute(statement)
                cursor.execute(f"PRAGMA user_version = {version + 1}")
            cursor.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    def _number(self, pragma: str) -> int:
        (value,) = self._sqlite.execute(f"PRAGMA {pragma}").fetchone()
        return int(value)

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError as error:
            raise DataError(f"The ledger refused a row: {error}.") from error
        except (sqlite3.ProgrammingError, sqlite3.InterfaceError, OverflowError, UnicodeEncodeError) as error:
            raise DataError(f"The ledger {self.path} cannot do this: {error}.") from error
        except sqlite3.OperationalError as error:
            raise DataError(f"The ledger {self.path} cannot be used: {error}.", hint=self._hint(str(error))) from error
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"{self.path} is not a ledger, or it is damaged: {error}.",
                hint="It was left as it is: move it aside, or name another file. `sqlite3 FILE .recover` saves what "
                "can be saved of a damaged one.",
            ) from error
        except OSError as error:
            raise DataError(
                f"The ledger {self.path} cannot be opened: {error.strerror or error}.", hint="Check its folder."
            ) from error

    def _hint(self, reason: str) -> str:
        if "locked" in reason:
            return "Another program holds it; nothing was written. Try again when that has ended."
        if "full" in reason:
            return "Free some space on its disk; what was committed before is safe."
        if not os.access(self.path.parent, os.W_OK) or (self.path.exists() and not os.access(self.path, os.W_OK)):
            return "Its folder and the file must be writable."
        return "Check that its folder is on a local, writable disk."


def _refuse_other_files(path: Path) -> None:
    """SQLite takes any file shorter than a page header for an empty database and would write over it."""
    if path.is_dir():
        raise DataError(f"The ledger {path} is a folder.", hint="Name a file.")
    if path.exists():
        with open(path, "rb") as stream:
            start = stream.read(len(_MAGIC))
        if start not in (b"", _MAGIC):
            raise DataError(
                f"{path} is not a ledger: it is no SQLite file.",
                hint="It was left as it is: move it aside, or name another file.",
            )
