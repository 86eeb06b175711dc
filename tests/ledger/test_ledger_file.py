"""The file: killed at any moment, shared by processes, old, new, foreign, damaged."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import text

from landrace.errors import DataError
from landrace.ledger import Ledger, Usage
from landrace.ledger import sqlite as sqlite_module
from landrace.ledger.schema import APPLICATION_ID, SQLITE, migrations

ROOT = Path(__file__).parents[2]
MIGRATIONS = migrations(SQLITE)

WRITER = """
import random, sys
from pathlib import Path
from landrace.ledger import Ledger, Usage
path, name, batches, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
dice = random.Random(seed)
ledger = Ledger(Path(path))
run = ledger.start_run("serve", name, command="", config={})
print(f"run {run.id}", flush=True)
for number in range(batches):
    size = dice.randint(1, 5)
    ledger.add_usage(
        Usage(f"{name}-{number}-{i}", "m" * 200, 1, 0, 1, 0.0, 0.0, 0.0, "stop", run_id=run.id) for i in range(size)
    )
    print(f"batch {number} {size}", flush=True)
"""


def writer(path: Path, name: str, batches: int = 1_000_000, seed: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(batches), str(seed)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def batches_in(rows: list[Usage], name: str) -> dict[int, int]:
    found: dict[int, int] = {}
    for row in rows:
        owner, number, _ = row.request_id.split("-")
        if owner == name:
            found[int(number)] = found.get(int(number), 0) + 1
    return found


def test_killed_at_random_moments_every_acknowledged_row_is_there(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    dice = random.Random(5)
    promised: dict[str, dict[int, int]] = {}
    for round_number in range(12):
        name = f"w{round_number}"
        process = writer(path, name, seed=round_number)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("run ")
        lines = [process.stdout.readline() for _ in range(dice.randrange(12))]
        time.sleep(dice.uniform(0, 0.01))
        process.kill()
        # A line cut by the kill promises nothing; each complete line was printed after its commit.
        lines += [line for line in process.stdout if line.endswith("\n")]
        process.wait()
        promised[name] = {int(line.split()[1]): int(line.split()[2]) for line in lines}
        with Ledger(path) as ledger:
            runs = {run.name: run for run in ledger.runs()}
            assert runs[name].status == "running"
            rows = ledger.usage()
        for owner, expected in promised.items():
            found = batches_in(rows, owner)
            sizes = random.Random(int(owner[1:]))
            assert found.items() >= expected.items()
            # At most one batch was committed without being acknowledged, and it is whole.
            assert len(found) <= len(expected) + 1
            assert [found[number] for number in sorted(found)] == [sizes.randint(1, 5) for _ in found]
    assert sum(len(batches) for batches in promised.values()) > 12
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_processes_share_a_ledger_from_its_first_moment(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    processes = [writer(path, f"w{number}", batches=60, seed=number) for number in range(4)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    with Ledger(path) as ledger:
        rows = ledger.usage()
        assert len(ledger.runs()) == 4
    for number, output in enumerate(outputs):
        lines = [line.split() for line in output.splitlines() if line.startswith("batch")]
        assert batches_in(rows, f"w{number}") == {int(line[1]): int(line[2]) for line in lines}
        assert len(lines) == 60


def test_commits_are_flushed_to_the_disk(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db") as ledger:
        pragmas = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
        for name, value in pragmas.items():
            assert [tuple(row) for row in ledger._database.rows(text(f"PRAGMA {name}"))] == [(value,)]


def test_a_ledger_of_the_second_version_opens_with_its_usage(tmp_path: Path) -> None:
    """With one request stored twice, which is refused since: both rows stay, and the second has no run."""
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as raw:
        raw.executescript((Path(__file__).parent / "version_2.sql").read_text())
    raw.close()
    with Ledger(path) as ledger:
        ledger.add_usage([replace(ledger.usage()[0], completion_tokens=99)])
        assert [(row.request_id, row.run_id, row.completion_tokens) for row in ledger.usage()] == [
            ("chatcmpl-1-0", 1, 3),
            ("chatcmpl-1-0", None, 3),
            ("chatcmpl-2-0", 1, 5),
        ]
        assert {(row.key_id, row.kind, row.cost, row.machine_seconds) for row in ledger.usage()} == {(None, None, 0, 0)}
        (everything,) = ledger.usage_by()
        assert (everything.requests, everything.seconds) == (3, Decimal("4.25"))
        assert not ledger.keys()
        assert [run.status for run in ledger.runs()] == ["running"]


def test_the_first_version_is_brought_up_to_date_with_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as raw:
        for statement in MIGRATIONS[0]:
            raw.execute(statement)
        raw.execute("PRAGMA user_version = 1")
        raw.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        raw.execute(
            "INSERT INTO runs VALUES (7, 'tune', 'old', 'finished', '2026-01-01T00:00:00.000000+00:00', "
            "'2026-01-01T01:00:00.000000+00:00', 'c', '{}', '0.1', NULL, "
            '\'{"cpu": "c", "cores": 1, "memory_bytes": null, "system": "s", "python": "p", "torch": null}\')'
        )
    raw.close()
    with Ledger(path) as ledger:
        (run,) = ledger.runs()
        assert (run.id, run.name, run.machine.cpu) == (7, "old", "c")
        ledger.add_usage([Usage("r", "m", 1, 0, 1, 0.0, None, 0.0, "stop", run_id=7)])
        assert len(ledger.usage()) == 1
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    raw.close()


def test_a_failed_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "l.db"
    Ledger(path).close()
    broken = (*MIGRATIONS, ("CREATE TABLE extra (x)", "CREATE TABLE runs (x)"))
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_module, "migrations", lambda _: broken)
        with pytest.raises(DataError, match="already exists"):
            Ledger(path)
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT count(*) FROM sqlite_master WHERE name = 'extra'").fetchone() == (0,)
    raw.close()
    with Ledger(path) as ledger:
        assert ledger.runs() == []


def assert_refused_and_unchanged(path: Path, complaint: str) -> None:
    before = hashlib.sha256(path.read_bytes()).digest()
    with pytest.raises(DataError, match=complaint) as caught:
        Ledger(path)
    assert caught.value.hint is not None
    assert hashlib.sha256(path.read_bytes()).digest() == before


def test_a_newer_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    Ledger(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    raw.close()
    assert_refused_and_unchanged(path, "newer|versions up to")


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE runs (x)"],
        ["CREATE TABLE other (x)", "PRAGMA user_version = 1"],
        ["PRAGMA application_id = 77", "CREATE TABLE t (x)"],
        ["PRAGMA user_version = 3"],
    ],
)
def test_the_database_of_another_program_is_refused(tmp_path: Path, statements: list[str]) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as raw:
        for statement in statements:
            raw.execute(statement)
    raw.close()
    assert_refused_and_unchanged(path, "another program")


@pytest.mark.parametrize(
    "content",
    [b"just a text\n" * 200, b"\x00" * 5000, b"x", b"SQLite format 3\x00" + b"\xff" * 4080, b"SQLite format 3\x00"],
)
def test_what_is_not_a_database_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "l.db"
    path.write_bytes(content)
    assert_refused_and_unchanged(path, "not a ledger")


def test_a_damaged_ledger_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger(path) as ledger:
        ledger.add_usage(Usage(f"r{i}", "m", 1, 0, 1, 0.0, None, 0.0, "stop") for i in range(2000))
    data = bytearray(path.read_bytes())
    data[4096:] = random.Random(0).randbytes(len(data) - 4096)
    path.write_bytes(data)
    before = bytes(data)
    with pytest.raises(DataError, match="damaged") as caught, Ledger(path) as ledger:
        ledger.usage()
    assert "recover" in str(caught.value.hint)
    assert path.read_bytes() == before


def test_places_where_no_ledger_can_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        Ledger(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be opened"):
        Ledger(tmp_path / "file" / "l.db")


def test_a_held_ledger_is_named_and_nothing_is_half_written(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger(path, patience=0.2) as ledger:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        rows = [Usage("r", "m", 1, 0, 1, 0.0, None, 0.0, "stop")]
        with pytest.raises(DataError, match="locked") as caught:
            ledger.add_usage(rows)
        assert "Another program holds it" in str(caught.value.hint)
        assert ledger.usage() == []
        holder.execute("ROLLBACK")
        holder.close()
        assert ledger.add_usage(rows) == 1


def test_what_a_process_with_several_handles_writes_stays_when_others_close(tmp_path: Path) -> None:
    """A file's locks are a process's, and gone when it closes the file once: then others delete what it is writing."""
    path = tmp_path / "l.db"
    handles = [Ledger(path) for _ in range(3)]
    other = "import sys; from landrace.ledger import Ledger; l = Ledger(sys.argv[1]); print(len(l.usage())); l.close()"

    def count() -> int:
        command = [sys.executable, "-c", other, str(path)]
        return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    assert count() == 0
    for n, ledger in enumerate(handles, start=1):
        ledger.add_usage([Usage(f"r{n}", "m", 1, 0, 1, 0.0, 0.0, 0.0, "stop")])
        assert count() == n
    for ledger in handles:
        ledger.close()
