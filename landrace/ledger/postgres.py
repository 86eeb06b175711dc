"""A ledger in a PostgreSQL database: tables in a schema of their own, shared by the servers of several machines."""

from __future__ import annotations

import sqlalchemy
from sqlalchemy import exc, text

from landrace.errors import DataError, LedgerUnavailableError
from landrace.ledger.database import Database
from landrace.ledger.place import LedgerPlace
from landrace.ledger.schema import APPLICATION_ID, POSTGRES, migrations

SCHEMA = "landrace"
_CONNECTIONS = 4
_CONNECT_SECONDS = 5
_MIGRATION_SECONDS = 60
"""For another server that makes or migrates the ledger at the same time."""
_SILENT_SECONDS = 10
"""How long a connection may say nothing before it counts as dead; a database whose machine vanished says nothing."""
_NOT_NOW = ("08", "25", "28", "3D", "42501", "53", "54", "55", "57", "58", "XX", "40")
"""Beginnings of the error codes (SQLSTATE) that are about the database's state rather than about what was asked."""


class PostgresDatabase(Database):
    """Connections that died with the database's restart are replaced when they are next wanted."""

    def __init__(self, place: LedgerPlace, patience: float) -> None:
        """`patience`: seconds that a writing statement may take, with what it waits for."""
        self._patience = patience
        try:
            import psycopg  # noqa: F401
        except ImportError as error:
            raise DataError(
                "A ledger in PostgreSQL needs the driver psycopg.", hint="Install it: pip install 'landrace[postgres]'."
            ) from error
        try:
            url = sqlalchemy.make_url(place.url or "").set(drivername="postgresql+psycopg")
        except exc.ArgumentError as error:
            raise DataError("The URL of the ledger cannot be read.") from error
        engine = sqlalchemy.create_engine(
            url,
            pool_pre_ping=True,
            pool_size=_CONNECTIONS,
            max_overflow=_CONNECTIONS,
            pool_timeout=patience,
            hide_parameters=True,
            connect_args={
                "connect_timeout": _CONNECT_SECONDS,
                "application_name": "landrace",
                "keepalives_idle": _SILENT_SECONDS,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "tcp_user_timeout": _SILENT_SECONDS * 1000,
            },
            execution_options={"schema_translate_map": {None: SCHEMA}},
        )
        super().__init__(place.shown, engine)
        self._migrate()

    def _begin_writing(self, connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(self._patience * 1000)}")

    def _migrate(self) -> None:
        steps = migrations(POSTGRES)
        with self._connection() as connection:
            if self._version(connection) == len(steps):
                return
        with self.transaction() as connection:
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {_MIGRATION_SECONDS * 1000}")
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": APPLICATION_ID})
            # Whoever waits for another server gives up in time; what is to be changed may be large and takes its time.
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            # Only now: another server may have migrated while this one waited.
            version = self._version(connection)
            if version is None:
                self._refuse_other_program(connection)
                if not _exists(connection, "pg_namespace WHERE nspname = :schema"):
                    connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")
                connection.exec_driver_sql(f"CREATE TABLE {SCHEMA}.schema_version (version BIGINT NOT NULL)")
                connection.exec_driver_sql(f"INSERT INTO {SCHEMA}.schema_version VALUES (0)")
            connection.exec_driver_sql(f"SET LOCAL search_path TO {SCHEMA}")
            for statements in steps[version or 0 :]:
                for statement in statements:
                    connection.exec_driver_sql(statement)
            connection.execute(text(f"UPDATE {SCHEMA}.schema_version SET version = :version"), {"version": len(steps)})

    def _version(self, connection: sqlalchemy.Connection) -> int | None:
        """None where there is no ledger yet. Raises DataError for a newer one."""
        if not _exists(connection, "pg_tables WHERE schemaname = :schema AND tablename = 'schema_version'"):
            return None
        version = int(connection.exec_driver_sql(f"SELECT version FROM {SCHEMA}.schema_version").scalar_one())
        known = len(migrations(POSTGRES))
        if version > known:
            raise DataError(
                f"The ledger {self.shown} has schema version {version}; this landrace knows versions up to {known}.",
                hint="It was written by a newer landrace and left as it is: upgrade landrace, or name "
                "another database.",
            )
        return version

    def _refuse_other_program(self, connection: sqlalchemy.Connection) -> None:
        """Raises DataError where there are tables, but no ledger. Under the lock: without it a ledger that another
        server is making just now looks so."""
        if _exists(connection, "pg_tables WHERE schemaname = :schema"):
            raise DataError(
                f"The schema {SCHEMA} of {self.shown} holds the tables of another program, not a ledger.",
                hint="It was left as it is. Name another database for the ledger.",
            )

    def _explained(self, error: BaseException) -> DataError:
        import psycopg

        reason = " ".join(str(error).split())
        state = getattr(error, "sqlstate", None)
        if isinstance(error, psycopg.IntegrityError):
            return DataError(f"The ledger refused a row: {reason}.")
        away = state is None and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
        if away or (state is not None and state.startswith(_NOT_NOW)):
            return LedgerUnavailableError(
                f"The ledger {self.shown} cannot be used: {reason}.",
                "the database does not answer" if away else reason,
                hint="Check that the database runs, and that its user may write to it.",
            )
        return DataError(f"The ledger {self.shown} cannot do this: {reason}.")


def _exists(connection: sqlalchemy.Connection, what: str) -> bool:
    """Whether the catalogue has a row like that of our schema. Asked of its tables: functions such as `to_regclass`
    answer from what the connection has cached, which may be older than a lock that it has just waited for."""
    found = connection.execute(text(f"SELECT 1 FROM pg_catalog.{what} LIMIT 1"), {"schema": SCHEMA})
    return found.first() is not None
