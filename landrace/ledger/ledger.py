"""`Ledger`: runs, scores and usage, kept in one SQLite file that is safe to kill and to share."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

from landrace.errors import DataError
from landrace.ledger.connection import Connection
from landrace.ledger.provenance import Machine, Provenance, describe_machine, package_commit, package_version
from landrace.ledger.records import Run, RunKind, RunStatus, Score, Usage, utc_now

_SCORE_COLUMNS = (
    "run_id, model, adapter, task, metric, value, low, high, n, details, package_version, git_commit, machine, "
    "weights_sha256, adapter_sha256, data_sha256, template_sha256, seed, created"
)
_USAGE_COLUMNS = (
    "run_id, request_id, model, adapter, prompt_tokens, cached_prompt_tokens, completion_tokens, queue_seconds, "
    "first_token_seconds, total_seconds, finish_reason, created"
)


class Ledger:
    """The ledger in the file `path`, made if it is not there. Usable from several threads and processes at once.

    Every method that writes has committed when it returns; a batch is stored whole or not at all. The file is
    never deleted or rewritten: one that is damaged, newer or of another program is refused.

    Raises (all methods): DataError: the file cannot be used, or a value cannot be stored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = Connection(path)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start_run(self, kind: RunKind, name: str, *, command: str, config: Mapping[str, Any]) -> Run:
        """Record that a run has begun, with the machine and version it runs on."""
        _one_of("kind", kind, get_args(RunKind))
        machine = describe_machine()
        started, version, commit = utc_now(), package_version(), package_commit()
        described = (_text(name), _stamp(started), _text(command), _json(config))
        values = (kind, *described, version, commit, _json(asdict(machine)))
        with self._connection.transaction() as cursor:
            cursor.execute(
                "INSERT INTO runs (kind, name, status, started, command, config, package_version, git_commit, machine) "
                "VALUES (?, ?, 'running', ?, ?, ?, ?, ?, ?)",
                values,
            )
            run_id = _row_id(cursor)
        return Run(run_id, kind, name, "running", started, None, command, dict(config), version, commit, machine)

    def finish_run(self, run_id: int, status: RunStatus = "finished") -> Run:
        """Record how a running run has ended. A run ends once."""
        _one_of("status", status, ("finished", "failed", "interrupted"))
        with self._connection.transaction() as cursor:
            cursor.execute(
                "UPDATE runs SET status = ?, ended = ? WHERE id = ? AND status = 'running'",
                (status, _stamp(utc_now()), run_id),
            )
            if cursor.rowcount != 1:
                raise DataError(f"The ledger has no running run {run_id}.")
        return self.run(run_id)

    def run(self, run_id: int) -> Run:
        rows = self._connection.rows("SELECT * FROM runs WHERE id = ?", (run_id,))
        if not rows:
            raise DataError(f"The ledger has no run {run_id}.")
        return _run(rows[0])

    def runs(self, *, kind: RunKind | None = None, name: str | None = None) -> list[Run]:
        """Newest first."""
        where, values = _where({"kind": kind, "name": name})
        return [_run(row) for row in self._connection.rows(f"SELECT * FROM runs{where} ORDER BY id DESC", values)]

    def add_score(self, score: Score) -> Score:
        """Store a score; returns it with its id."""
        values = _score_values(score)
        with self._connection.transaction() as cursor:
            cursor.execute(f"INSERT INTO scores ({_SCORE_COLUMNS}) VALUES ({_marks(values)})", values)
            score_id = _row_id(cursor)
        return replace(score, id=score_id)

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
        where, values = _where(given)
        return [_score(row) for row in self._connection.rows(f"SELECT * FROM scores{where} ORDER BY id", values)]

    def add_usage(self, rows: Iterable[Usage]) -> int:
        """Store requests that ended, all of them or (if one is refused) none; returns how many."""
        values = [_usage_values(row) for row in rows]
        if values:
            with self._connection.transaction() as cursor:
                cursor.executemany(f"INSERT INTO usage ({_USAGE_COLUMNS}) VALUES ({_marks(values[0])})", values)
        return len(values)

    def usage(self, *, run_id: int | None = None, model: str | None = None) -> list[Usage]:
        """The stored requests, oldest first."""
        where, values = _where({"run_id": run_id, "model": model})
        return [_usage(row) for row in self._connection.rows(f"SELECT * FROM usage{where} ORDER BY id", values)]


def _score_values(score: Score) -> tuple[object, ...]:
    if score.id is not None:
        raise DataError(f"This score is stored already, as number {score.id}.")
    _finite("value", score.value)
    for name, bound in (("low", score.low), ("high", score.high)):
        if bound is not None:
            _finite(name, bound)
    origin = score.provenance
    return (
        *(score.run_id, score.model, score.adapter, score.task, score.metric),
        *(score.value, score.low, score.high, score.n, _json(score.details)),
        *(origin.package_version, origin.commit, _json(asdict(origin.machine))),
        *(origin.weights_sha256, origin.adapter_sha256, origin.data_sha256, origin.template_sha256, origin.seed),
        _stamp(score.created),
    )


def _usage_values(row: Usage) -> tuple[object, ...]:
    _finite("queue_seconds", row.queue_seconds)
    _finite("total_seconds", row.total_seconds)
    if row.first_token_seconds is not None:
        _finite("first_token_seconds", row.first_token_seconds)
    return (
        *(row.run_id, row.request_id, row.model, row.adapter),
        *(row.prompt_tokens, row.cached_prompt_tokens, row.completion_tokens),
        *(row.queue_seconds, row.first_token_seconds, row.total_seconds, row.finish_reason, _stamp(row.created)),
    )


def _run(row: sqlite3.Row) -> Run:
    return Run(
        id=row["id"],
        kind=row["kind"],
        name=row["name"],
        status=row["status"],
        started=datetime.fromisoformat(row["started"]),
        ended=None if row["ended"] is None else datetime.fromisoformat(row["ended"]),
        command=row["command"],
        config=json.loads(row["config"]),
        package_version=row["package_version"],
        commit=row["git_commit"],
        machine=Machine(**json.loads(row["machine"])),
    )


def _score(row: sqlite3.Row) -> Score:
    same = ("id", "run_id", "model", "adapter", "task", "metric", "value", "low", "high", "n")
    origin = ("package_version", "weights_sha256", "adapter_sha256", "data_sha256", "template_sha256", "seed")
    provenance = Provenance(
        commit=row["git_commit"],
        machine=Machine(**json.loads(row["machine"])),
        **{name: row[name] for name in origin},
    )
    return Score(
        **{name: row[name] for name in same},
        details=json.loads(row["details"]),
        provenance=provenance,
        created=datetime.fromisoformat(row["created"]),
    )


def _usage(row: sqlite3.Row) -> Usage:
    fields = {name: row[name] for name in _USAGE_COLUMNS.split(", ") if name != "created"}
    return Usage(**fields, created=datetime.fromisoformat(row["created"]))


def _where(given: Mapping[str, object]) -> tuple[str, tuple[object, ...]]:
    wanted = {column: value for column, value in given.items() if value is not None}
    text = " AND ".join(f"{column} = ?" for column in wanted)
    return (f" WHERE {text}" if text else ""), tuple(wanted.values())


def _marks(values: tuple[object, ...]) -> str:
    return ", ".join("?" * len(values))


def _row_id(cursor: sqlite3.Cursor) -> int:
    if cursor.lastrowid is None:
        raise DataError("The ledger gave the new row no number.")
    return cursor.lastrowid


def _stamp(moment: datetime) -> str:
    """UTC with a fixed width, so that text order is time order and the first ten characters are the day."""
    if moment.tzinfo is None:
        raise DataError(f"The time {moment} has no time zone.", hint="Use utc_now().")
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _text(value: str) -> str:
    """As SQLite takes it: in text, a file name's bytes that are not UTF-8 are spelled out, in JSON as JSON does."""
    return value.encode("utf-8", "backslashreplace").decode()


def _json(value: Mapping[str, Any]) -> str:
    try:
        return _text(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"A value cannot be written as JSON: {error}.") from error


def _finite(name: str, value: float) -> None:
    # SQLite would quietly store NaN as NULL.
    if not math.isfinite(value):
        raise DataError(f"{name} is {value}; the ledger stores finite numbers only.")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DataError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")
