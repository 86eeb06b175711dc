"""A ledger in an SQLite file: opened safely, checked to be ours, brought to the present schema."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import sqlalchemy
from sqlalchemy.pool import QueuePool

from landrace.errors import DataError, LedgerUnavailableError
from landrace.ledger.database import Database
from landrace.ledger.schema import APPLICATION_ID, SQLITE, migrations

_RETRY_SECONDS = 0.05
_CONNECTIONS = 4
"""Kept open; more are opened when more threads work at once."""
_LEAST_PAGE = 512
"""Bytes."""


class SqliteDatabase(Database):
    """Do not carry it over a fork.

    WAL with synchronous=FULL: a commit is on the disk when it returns, so an acknowledged row survives the
    death of the process and of the machine alike. (NORMAL would survive only the first.) The price is one disk
    flush a commit, which is why rows that come often are added in batches.
    """

    def __init__(self, path: Path, patience: float) -> None:
        """`patience`: seconds to wait for another program that holds the file."""
        self._path = path
        self._patience = patience
        self._identity: tuple[int, int] | None = None
        engine = sqlalchemy.create_engine(
            "sqlite+pysqlite://",
            creator=self._open,
            poolclass=QueuePool,
            pool_size=_CONNECTIONS,
            max_overflow=-1,
            hide_parameters=True,
        )
        super().__init__(str(path), engine)
        try:
            _refuse_other_files(path)
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_opened(error) from error
        with self._clear_errors(), self._engine.connect():
            pass

    def _begin_writing(self, connection: sqlalchemy.Connection) -> None:
        # IMMEDIATE: a transaction that begins as a reader can fail halfway when another process writes.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def _before_connecting(self) -> None:
        """A file that was moved away or deleted would take rows for as long as it is open; nobody would find them."""
        try:
            there = os.stat(self._path)
        except OSError as error:
            self._engine.dispose()
            raise self._not_opened(error) from error
        if (there.st_dev, there.st_ino) != self._identity:
            self._engine.dispose()

    def _open(self) -> sqlite3.Connection:
        # Only the first connection makes the file: one that has vanished must not come back empty.
        mode = "rwc" if self._identity is None else "rw"
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=self._patience,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            # Everything up to here and in the next line only reads: a file that is not ours is left as it is.
            self._refuse_foreign_file(connection)
            self._use_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
            _migrate(connection)
            there = os.stat(self._path)
        except OSError as error:
            connection.close()
            raise self._not_opened(error) from error
        except BaseException:
            connection.close()
            raise
        self._identity = there.st_dev, there.st_ino
        return connection

    def _refuse_foreign_file(self, connection: sqlite3.Connection) -> None:
        # One read transaction, so that a ledger which another process makes right now is seen whole or not at all.
        connection.execute("BEGIN")
        try:
            application, version = _number(connection, "application_id"), _number(connection, "user_version")
            has_tables = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None
        finally:
            connection.execute("ROLLBACK")
        if application not in (0, APPLICATION_ID) or (application == 0 and (version or has_tables)):
            raise DataError(
                f"{self._path} is a database of another program, not a ledger.",
                hint="It was left as it is. Name another file for the ledger.",
            )
        known = len(migrations(SQLITE))
        if version > known:
            raise DataError(
                f"The ledger {self._path} has schema version {version}; this landrace knows versions up to {known}.",
                hint="It was written by a newer landrace and left as it is: upgrade landrace, or name another file.",
            )

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        # Switching to WAL needs the file alone for an instant, and SQLite does not wait for that by itself.
        deadline = time.monotonic() + self._patience
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(_RETRY_SECONDS)

    def _explained(self, error: BaseException) -> DataError:
        if isinstance(error, sqlite3.IntegrityError):
            return DataError(f"The ledger refused a row: {error}.")
        if isinstance(error, (sqlite3.ProgrammingError, sqlite3.InterfaceError)):
            return DataError(f"The ledger {self.shown} cannot do this: {error}.")
        if isinstance(error, sqlite3.OperationalError):
            return LedgerUnavailableError(
                f"The ledger {self.shown} cannot be used: {error}.", str(error), hint=self._hint(str(error))
            )
        return LedgerUnavailableError(
            f"{self.shown} is not a ledger, or it is damaged: {error}.",
            str(error),
            hint="It was left as it is: move it aside, or name another file. `sqlite3 FILE .recover` saves what "
            "can be saved of a damaged one.",
        )

    def _hint(self, reason: str) -> str:
        if "locked" in reason:
            return "Another program holds it; nothing was written. Try again when that has ended."
        if "full" in reason:
            return "Free some space on its disk; what was committed before is safe."
        if not os.access(self._path.parent, os.W_OK) or (self._path.exists() and not os.access(self._path, os.W_OK)):
            return "Its folder and the file must be writable."
        return "Check that its folder is on a local, writable disk."

    def _not_opened(self, error: OSError) -> LedgerUnavailableError:
        reason = error.strerror or str(error)
        return LedgerUnavailableError(
            f"The ledger {self.shown} cannot be opened: {reason}.", reason, hint="Check its folder."
        )


def _migrate(connection: sqlite3.Connection) -> None:
    steps = migrations(SQLITE)
    if _number(connection, "user_version") == len(steps):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read again inside the transaction: another process may have migrated meanwhile.
        for version in range(_number(connection, "user_version"), len(steps)):
            for statement in steps[version]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version + 1}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    (value,) = connection.execute(f"PRAGMA {pragma}").fetchone()
    return int(value)


def _refuse_other_files(path: Path) -> None:
    """SQLite takes any file shorter than a page for an empty database and would write over it; what else is no database
    it tells by itself.

    The file is not opened here: when a process closes a file, it loses all the locks that its other connections hold on
    it, and others would take what those write for left behind, and delete it.
    """
    if path.is_dir():
        raise DataError(f"The ledger {path} is a folder.", hint="Name a file.")
    if path.exists() and 0 < path.stat().st_size < _LEAST_PAGE:
        raise DataError(
            f"{path} is not a ledger: it is no SQLite file.",
            hint="It was left as it is: move it aside, or name another file.",
        )
