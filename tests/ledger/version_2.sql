-- A ledger as version 2 of its schema left it.
PRAGMA application_id = 1280197714;
PRAGMA user_version = 2;
BEGIN TRANSACTION;
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
    );
INSERT INTO "runs" VALUES(1,'serve','m','running','2026-01-01T00:00:00.000000+00:00',NULL,'c','{}','0.1',NULL,'{"cpu": "c", "cores": 1, "memory_bytes": null, "system": "s", "python": "p", "torch": null}');
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
    );
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
    );
INSERT INTO "usage" VALUES(1,1,'chatcmpl-1-0','m',NULL,10,4,3,0.25,0.5,1.0,'stop','2026-01-01T00:00:01.000000+00:00');
INSERT INTO "usage" VALUES(2,1,'chatcmpl-1-0','m',NULL,10,4,3,0.25,0.5,1.0,'stop','2026-01-01T00:00:01.000000+00:00');
INSERT INTO "usage" VALUES(3,1,'chatcmpl-2-0','m',NULL,10,4,5,0.25,0.5,2.25,'stop','2026-01-01T00:00:01.000000+00:00');
CREATE INDEX scores_by_run ON scores (run_id);
CREATE INDEX scores_by_task ON scores (task, metric, model);
CREATE INDEX usage_by_time ON usage (created);
CREATE INDEX usage_by_run ON usage (run_id);
COMMIT;
