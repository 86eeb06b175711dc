"""`Database`: transactions and reads on one ledger, whichever database holds it, with errors a person can act on."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy
from sqlalchemy import exc
from sqlalchemy.sql import Executable

from landrace.errors import DataError, LedgerUnavailableError


class Database(ABC):
    """Shared by the threads of a process, each with a connection of its own while it works.

    Raises (all methods): LedgerUnavailableError: the ledger cannot be used now, and it is unknown whether a commit
    that was under way has happened. DataError: what is asked for cannot be done at any time.
    """

    def __init__(self, shown: str, engine: sqlalchemy.Engine) -> None:
        self.shown = shown
        self._engine = engine
        self._closed = False

    def close(self) -> None:
        self._closed = True
        self._engine.dispose()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlalchemy.Connection]:
        """All or nothing: committed when the block ends, rolled back when it raises."""
        with self._connection() as connection:
            self._begin_writing(connection)
            yield connection
            connection.commit()

    def rows(self, statement: Executable) -> Sequence[sqlalchemy.Row[Any]]:
        with self._connection() as connection:
            return connection.execute(statement).all()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlalchemy.Connection]:
        """What is not committed when the block ends is rolled back."""
        if self._closed:
            raise DataError(f"The ledger {self.shown} is closed.")
        with self._clear_errors():
            self._before_connecting()
            with self._engine.connect() as connection:
                yield connection

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            clear = self._explained(error.orig or error)
            if isinstance(clear, LedgerUnavailableError):
                # A connection that failed may keep failing for that reason when it is gone: the next one is new.
                self._engine.dispose()
            raise clear from error
        except exc.TimeoutError as error:
            raise LedgerUnavailableError(
                f"The ledger {self.shown} is busy.", "every connection to it is in use", hint="Try again shortly."
            ) from error
        except exc.SQLAlchemyError as error:  # a connection that was cut off at an unlucky moment
            raise LedgerUnavailableError(
                f"The ledger {self.shown} cannot be used: {type(error).__name__}.", "the connection was lost"
            ) from error
        except (OverflowError, UnicodeEncodeError) as error:
            raise DataError(f"The ledger {self.shown} cannot do this: {error}.") from error

    def _before_connecting(self) -> None:  # noqa: B027  most databases need nothing
        """Raises LedgerUnavailableError when the ledger is not where it was."""

    @abstractmethod
    def _begin_writing(self, connection: sqlalchemy.Connection) -> None:
        """Before the first statement of a transaction that writes."""

    @abstractmethod
    def _explained(self, error: BaseException) -> DataError:
        """What the driver's error means."""
