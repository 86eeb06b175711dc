"""`Ledger`: runs, scores, usage and keys, kept in SQLite or PostgreSQL, safe to kill and to share."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

from sqlalchemy import Column, Select, Table, insert, select, update

from landrace.errors import DataError
from landrace.ledger.database import Database
from landrace.ledger.exchanges import Exchanges
from landrace.ledger.key_rows import key_of_row, row_of_key
from landrace.ledger.keys import Key, Spent, digest_of, new_key_id, new_secret
from landrace.ledger.place import place_of
from landrace.ledger.provenance import describe_machine, package_commit, package_version
from landrace.ledger.records import Run, RunKind, RunStatus, Score, Usage, UsageSum, utc_now
from landrace.ledger.run_rows import row_of_run, row_of_score, run_of_row, score_of_row
from landrace.ledger.tables import KEYS, RUNS, SCORES, USAGE
from landrace.ledger.usage_rows import (
    GROUPS,
    insertion,
    row_of_usage,
    spending,
    spent_of_row,
    sum_of_row,
    summing,
    usage_of_row,
)
from landrace.ledger.values import check_one_of, stamp

_PATIENCE_SECONDS = 30.0


class Ledger:
    """The ledger in the file or at the URL `place`, made if it is not there. Usable from several threads, processes
    and, in PostgreSQL, machines at once.

    Every method that writes has committed when it returns; a batch is stored whole or not at all. A ledger is
    never deleted or rewritten: one that is damaged, newer or of another program is refused.

    Raises (all methods): LedgerUnavailableError: it cannot be used now. DataError: it can never be used, or a value
    cannot be stored.
    """

    def __init__(self, place: str | Path, *, patience: float = _PATIENCE_SECONDS) -> None:
        """`patience`: seconds to wait for others that hold the ledger."""
        self._database = _open(place, patience)
        self.shown = self._database.shown
        """Where it is, without a password."""
        self.exchanges = Exchanges(self._database)
        """Conversations that were kept, and what people said of them."""

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start_run(self, kind: RunKind, name: str, *, command: str, config: Mapping[str, Any]) -> Run:
        """Record that a run has begun, with the machine and version it runs on."""
        check_one_of("kind", kind, get_args(RunKind))
        origin = package_version(), package_commit(), describe_machine()
        run = Run(0, kind, name, "running", utc_now(), None, command, dict(config), *origin)
        return replace(run, id=self._insert(RUNS, row_of_run(run)))

    def finish_run(self, run_id: int, status: RunStatus = "finished") -> Run:
        """Record how a running run has ended. A run ends once."""
        check_one_of("status", status, ("finished", "failed", "interrupted"))
        ending = update(RUNS).where(RUNS.c.id == run_id, RUNS.c.status == "running")
        with self._database.transaction() as connection:
            if connection.execute(ending.values(status=status, ended=stamp(utc_now()))).rowcount != 1:
                raise DataError(f"The ledger has no running run {run_id}.")
        return self.run(run_id)

    def run(self, run_id: int) -> Run:
        rows = self._database.rows(select(RUNS).where(RUNS.c.id == run_id))
        if not rows:
            raise DataError(f"The ledger has no run {run_id}.")
        return run_of_row(rows[0])

    def number_of_run(self, run: Run) -> int:
        """A run's number here. A ledger that lacks the run, as one does that was put back from an older copy, stores it
        first."""
        row = row_of_run(run)
        same = (RUNS.c[name] == row[name] for name in ("kind", "name", "started"))
        found = self._database.rows(select(RUNS.c.id).where(*same))
        return int(found[0].id) if found else self._insert(RUNS, row)

    def runs(self, *, kind: RunKind | None = None, name: str | None = None) -> list[Run]:
        """Newest first."""
        found = _matching(RUNS, {"kind": kind, "name": name}).order_by(RUNS.c.id.desc())
        return [run_of_row(row) for row in self._database.rows(found)]

    def add_score(self, score: Score) -> Score:
        """Store a score; returns it with its id."""
        return replace(score, id=self._insert(SCORES, row_of_score(score)))

    def scores(
        self,
        *,
        run_id: int | None = None,
        model: str | None = None,
        adapter: str | None = None,
        task: str | None = None,
        metric: str | None = None,
    ) -> list[Score]:
        """The scores that match every given field, oldest first."""
        given = {"run_id": run_id, "model": model, "adapter": adapter, "task": task, "metric": metric}
        return [score_of_row(row) for row in self._database.rows(_matching(SCORES, given).order_by(SCORES.c.id))]

    def add_usage(self, rows: Iterable[Usage]) -> int:
        """Store requests that ended, all of them or (if one is refused) none; returns how many.

        A request of a run is stored once: one that is there already counts as stored, so that a batch whose fate is
        unknown can be sent again.
        """
        values = [row_of_usage(row) for row in rows]
        if values:
            with self._database.transaction() as connection:
                connection.execute(insertion(connection.dialect.name), values)
        return len(values)

    def usage(self, *, run_id: int | None = None, model: str | None = None) -> list[Usage]:
        """The stored requests, oldest first."""
        found = _matching(USAGE, {"run_id": run_id, "model": model}).order_by(USAGE.c.id)
        return [usage_of_row(row) for row in self._database.rows(found)]

    def usage_by(
        self, by: Sequence[str] = (), *, since: datetime | None = None, until: datetime | None = None
    ) -> list[UsageSum]:
        """Exact sums over the requests from `since` up to, not including, `until`, a line for each group."""
        for name in by:
            check_one_of("by", name, GROUPS)
        sums = [sum_of_row(row, by) for row in self._database.rows(summing(by, since, until))]
        return sorted(sums, key=lambda one: [(value is not None, value or "") for value in one.group.values()])

    def create_key(
        self,
        name: str,
        *,
        team: str = "",
        models: Sequence[str] | None = None,
        routes: Sequence[str] | None = None,
        is_admin: bool = False,
        priority: int = 0,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        money_per_month: Decimal | None = None,
        expires: datetime | None = None,
    ) -> tuple[Key, str]:
        """A new key and its secret, which is told here and never again."""
        key = Key(
            id=new_key_id(),
            name=name,
            created=utc_now(),
            team=team,
            models=None if models is None else tuple(models),
            routes=None if routes is None else tuple(routes),
            is_admin=is_admin,
            priority=priority,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            money_per_month=money_per_month,
            expires=expires,
        )
        secret = new_secret()
        self._check_name_is_free(name)
        with self._database.transaction() as connection:
            connection.execute(insert(KEYS).values(row_of_key(key, digest_of(secret))))
        return key, secret

    def keys(self) -> list[Key]:
        """All that were ever made, oldest first."""
        return [key_of_row(row) for row in self._database.rows(select(KEYS).order_by(KEYS.c.created, KEYS.c.id))]

    def key_of(self, secret: str) -> Key | None:
        """The key with this secret, if it is neither revoked nor expired.

        Looked up by its hash, so that the time tells nothing of a stored secret.
        """
        digest = digest_of(secret)
        for row in self._database.rows(select(KEYS).where(KEYS.c.secret_sha256 == digest)):
            key = key_of_row(row)
            if hmac.compare_digest(row.secret_sha256, digest) and key.is_valid(utc_now()):
                return key
        return None

    def rotate_key(self, key_id: str) -> tuple[Key, str]:
        """Gives a key a new secret; the old one ends at once."""
        secret = new_secret()
        return self._change_key(key_id, {"secret_sha256": digest_of(secret)}), secret

    def revoke_key(self, key_id: str) -> Key:
        """Ends a key for good. What it used stays recorded under its number."""
        return self._change_key(key_id, {"revoked": stamp(utc_now())})

    def spent(self, key_id: str, since: datetime) -> Spent:
        """What a key has used since then; answered from an index."""
        (row,) = self._database.rows(spending(key_id, since))
        return spent_of_row(row)

    def _insert(self, table: Table, row: dict[str, object]) -> int:
        with self._database.transaction() as connection:
            key: Any = connection.execute(insert(table).values(row)).inserted_primary_key
        return int(key[0])

    def _check_name_is_free(self, name: str) -> None:
        if self._database.rows(select(KEYS.c.id).where(KEYS.c.name == name, KEYS.c.revoked.is_(None))):
            raise DataError(f"There is a key called {name!r} already.", hint="Revoke or rotate it, or name another.")

    def _change_key(self, key_id: str, change: dict[str, object]) -> Key:
        changing = update(KEYS).where(KEYS.c.id == key_id, KEYS.c.revoked.is_(None))
        with self._database.transaction() as connection:
            if connection.execute(changing.values(change)).rowcount != 1:
                raise DataError(f"The ledger has no key {key_id!r} that is not revoked.")
            return key_of_row(connection.execute(select(KEYS).where(KEYS.c.id == key_id)).one())


def _open(place: str | Path, patience: float) -> Database:
    found = place_of(place)
    if found.file is not None:
        from landrace.ledger.sqlite import SqliteDatabase

        return SqliteDatabase(found.file, patience)
    from landrace.ledger.postgres import PostgresDatabase

    return PostgresDatabase(found, patience)


def _matching(table: Table, given: Mapping[str, object]) -> Select[Any]:
    columns: Mapping[str, Column[Any]] = dict(table.c)
    return select(table).where(*(columns[name] == value for name, value in given.items() if value is not None))
