"""The tables, and how an older ledger becomes a newer one.

`PRAGMA user_version` counts the migrations a file has been through; each is applied once, in order, all in one
transaction. A released migration is never edited: a change of the tables is a new one at the end.
"""

from __future__ import annotations

APPLICATION_ID = 0x4C4E4452
"""Marks the file as a ledger ("LNDR"), so that another program's database is never touched."""

_RUNS_AND_SCORES = (
    """
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL CHECK (kind IN ('tune', 'evaluate', 'compare', 'serve', 'certify', 'demo')),
        name TEXT NOT NULL,
        status TEXT NOT NULL CHECK (status IN ('running', 'finished', 'failed', 'interrupted')),
        started TEXT NOT NULL,
        ended TEXT,
        command TEXT NOT NULL,
        config TEXT NOT NULL,
        package_version TEXT NOT NULL,
        git_commit TEXT,
        machine TEXT NOT NULL,
        CHECK ((status = 'running') = (ended IS NULL))
    )
    """,
    """
    CREATE TABLE scores (
        id INTEGER PRIMARY KEY,
        run_id INTEGER NOT NULL REFERENCES runs (id),
        model TEXT NOT NULL,
        adapter TEXT,
        task TEXT NOT NULL,
        metric TEXT NOT NULL,
        value REAL NOT NULL,
        low REAL,
        high REAL,
        n INTEGER NOT NULL CHECK (n >= 0),
        details TEXT NOT NULL,
        package_version TEXT NOT NULL,
        git_commit TEXT,
        machine TEXT NOT NULL,
        weights_sha256 TEXT,
        adapter_sha256 TEXT,
        data_sha256 TEXT,
        template_sha256 TEXT,
        seed INTEGER,
        created TEXT NOT NULL,
        CHECK ((low IS NULL) = (high IS NULL))
    )
    """,
    "CREATE INDEX scores_by_run ON scores (run_id)",
    "CREATE INDEX scores_by_task ON scores (task, metric, model)",
)

_USAGE = (
    """
    CREATE TABLE usage (
        id INTEGER PRIMARY KEY,
        run_id INTEGER REFERENCES runs (id),
        request_id TEXT NOT NULL,
        model TEXT NOT NULL,
        adapter TEXT,
        prompt_tokens INTEGER NOT NULL CHECK (prompt_tokens >= 0),
        cached_prompt_tokens INTEGER NOT NULL CHECK (cached_prompt_tokens BETWEEN 0 AND prompt_tokens),
        completion_tokens INTEGER NOT NULL CHECK (completion_tokens >= 0),
        queue_seconds REAL NOT NULL CHECK (queue_seconds >= 0),
        first_token_seconds REAL CHECK (first_token_seconds >= 0),
        total_seconds REAL NOT NULL CHECK (total_seconds >= 0),
        finish_reason TEXT NOT NULL,
        created TEXT NOT NULL
    )
    """,
    "CREATE INDEX usage_by_time ON usage (created)",
    "CREATE INDEX usage_by_run ON usage (run_id)",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_RUNS_AND_SCORES, _USAGE)
