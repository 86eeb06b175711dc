"""The ledger in a real PostgreSQL: shared from its first moment, killed, left alone where it is not ours, and silent
about passwords."""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from postgres_server import PASSWORD, USER, PostgresServer

from landrace.errors import DataError, LedgerUnavailableError
from landrace.ledger import Ledger, Usage
from landrace.ledger import postgres as postgres_module
from landrace.ledger.place import place_of, without_passwords
from landrace.ledger.schema import POSTGRES, migrations

psycopg = pytest.importorskip("psycopg", reason="the driver of PostgreSQL is not installed")
ROOT = Path(__file__).parents[2]

WRITER = """
import sys
from landrace.ledger import Ledger, Usage
url, name, batches = sys.argv[1], sys.argv[2], int(sys.argv[3])
ledger = Ledger(url)
run = ledger.start_run("serve", name, command="", config={})
for number in range(batches):
    ledger.add_usage(
        Usage(f"{name}-{number}-{i}", "m", 1, 0, 1, 0.0, 0.0, 0.0, "stop", run_id=run.id) for i in range(3)
    )
    print(number, flush=True)
"""


def writer(url: str, name: str, batches: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, url, name, str(batches)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


def test_processes_share_a_ledger_from_its_first_moment(postgres_url: str) -> None:
    processes = [writer(postgres_url, f"w{number}", 10) for number in range(4)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    with Ledger(postgres_url) as ledger:
        assert len(ledger.runs()) == 4
        assert len({row.request_id for row in ledger.usage()}) == len(ledger.usage()) == 4 * 10 * 3


def test_a_killed_writer_leaves_whole_batches(postgres_url: str) -> None:
    process = writer(postgres_url, "w", 1_000_000)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(5)]
    process.kill()
    lines += [line for line in process.stdout if line.endswith("\n")]
    process.communicate()
    with Ledger(postgres_url) as ledger:
        batches = [row.request_id.rsplit("-", 1)[0] for row in ledger.usage()]
    assert {f"w-{int(line)}" for line in lines} <= set(batches)
    assert len(set(batches)) <= len(lines) + 1
    assert all(batches.count(name) == 3 for name in set(batches))


def test_a_connection_that_was_cut_is_replaced(postgres_server: PostgresServer, postgres_url: str) -> None:
    with Ledger(postgres_url) as ledger:
        key, secret = ledger.create_key("ann")
        postgres_server.stop()
        try:
            with pytest.raises(LedgerUnavailableError) as caught:
                ledger.key_of(secret)
            assert PASSWORD not in "".join(traceback.format_exception(caught.value))
        finally:
            postgres_server.start()
        assert ledger.key_of(secret) == key


def test_a_statement_waits_no_longer_than_it_may(postgres_url: str) -> None:
    with Ledger(postgres_url, patience=0.3) as ledger, psycopg.connect(postgres_url) as holder:
        holder.execute("LOCK TABLE landrace.usage IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(LedgerUnavailableError, match="timeout"):
            ledger.add_usage([Usage("r", "m", 1, 0, 1, 0.0, None, 0.0, "stop")])
        holder.rollback()
        assert ledger.add_usage([Usage("r", "m", 1, 0, 1, 0.0, None, 0.0, "stop")]) == 1


def test_the_tables_keep_to_their_own_schema(postgres_url: str) -> None:
    run(postgres_url, "DROP TABLE IF EXISTS public.runs; CREATE TABLE public.runs (x int)")
    with Ledger(postgres_url) as ledger:
        ledger.start_run("serve", "m", command="", config={})
        assert len(ledger.runs()) == 1
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM public.runs").fetchone() == (0,)
    run(postgres_url, "DROP TABLE public.runs")


def test_a_schema_that_was_made_for_it_is_used(postgres_url: str) -> None:
    """By a user who may make no schema."""
    run(postgres_url, "DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN PASSWORD 'guest'")
    run(postgres_url, "CREATE SCHEMA landrace AUTHORIZATION guest")
    address = postgres_url.partition("@")[2]
    with Ledger(f"postgresql://guest:guest@{address}") as ledger:
        assert ledger.runs() == []
    run(postgres_url, "DROP SCHEMA landrace CASCADE")
    with pytest.raises(LedgerUnavailableError, match="permission denied"):
        Ledger(f"postgresql://guest:guest@{address}")
    run(postgres_url, "DROP ROLE guest")


def test_an_older_ledger_is_brought_up_to_date(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(postgres_module, "migrations", lambda words: migrations(words)[:2])
        Ledger(postgres_url).close()
    with Ledger(postgres_url) as ledger:
        assert ledger.keys() == []
        assert ledger.usage() == []


def test_a_failed_migration_changes_nothing(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        broken = (*migrations(POSTGRES), ("CREATE TABLE extra (x int)", "CREATE TABLE runs (x int)"))
        patch.setattr(postgres_module, "migrations", lambda _: broken)
        with pytest.raises(DataError, match="already exists"):
            Ledger(postgres_url)
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT to_regclass('landrace.extra')").fetchone() == (None,)
    with Ledger(postgres_url) as ledger:
        assert ledger.runs() == []


def test_a_migration_may_take_longer_than_a_statement(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = (*migrations(POSTGRES), ("SELECT pg_sleep(0.5)",))
    monkeypatch.setattr(postgres_module, "migrations", lambda _: slow)
    Ledger(postgres_url, patience=0.2).close()


def test_without_the_driver_it_is_named(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DataError, match="psycopg") as caught:
        Ledger(postgres_url)
    assert "landrace[postgres]" in str(caught.value.hint)


def test_a_newer_ledger_is_refused(postgres_url: str) -> None:
    Ledger(postgres_url).close()
    run(postgres_url, "UPDATE landrace.schema_version SET version = version + 1")
    with pytest.raises(DataError, match="versions up to") as caught:
        Ledger(postgres_url)
    assert "newer" in str(caught.value.hint)


def test_the_schema_of_another_program_is_refused(postgres_url: str) -> None:
    run(postgres_url, "CREATE SCHEMA landrace; CREATE TABLE landrace.other (x int)")
    with pytest.raises(DataError, match="another program"):
        Ledger(postgres_url)
    with psycopg.connect(postgres_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'landrace'").fetchall()
    assert tables == [("other",)]


@pytest.mark.parametrize(
    "changed",
    [
        lambda url: url.replace(PASSWORD, "wrong-secret"),
        lambda url: url.replace(f":{url.rpartition(':')[2].partition('/')[0]}/", ":1/").replace(
            PASSWORD, "wrong-secret"
        ),
        lambda url: f"{url}_none?password=wrong-secret",
        lambda url: f"{url}?sslmode=nonsense&password=wrong-secret",
        lambda url: url.replace(PASSWORD, "wrong-secret").replace("127.0.0.1:", "127.0.0.1:x"),
        lambda url: url.replace("postgresql", "mysql").replace(PASSWORD, "wrong-secret"),
    ],
)
def test_no_error_tells_a_password(postgres_url: str, changed: Callable[[str], str]) -> None:
    with pytest.raises(DataError) as caught:
        Ledger(changed(postgres_url))
    told = "".join(traceback.format_exception(caught.value)) + str(caught.value.hint)
    assert "wrong-secret" not in told
    assert PASSWORD not in told


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://ann:secret@h/d", "postgresql://ann:***@h/d"),
        ("--ledger=postgres://ann:s:e@c@h/d", "--ledger=postgres://ann:***@h/d"),
        ("postgresql+psycopg://ann@h/d", "postgresql+psycopg://ann@h/d"),
        ("postgresql://h/d?user=ann&password=secret&sslmode=require", "postgresql://h/d?user=ann&password=***&sslmode=require"),
        ("postgresql://h/d?sslpassword=secret", "postgresql://h/d?sslpassword=***"),
        ("https://example.org/@x:y@z", "https://example.org/@x:y@z"),
        ("runs/usage.sqlite", "runs/usage.sqlite"),
    ],
)  # fmt: skip
def test_a_password_is_hidden(given: str, shown: str) -> None:
    assert without_passwords(given) == shown


def test_a_place_shows_no_password() -> None:
    place = place_of(f"postgresql://{USER}:{PASSWORD}@h/d")
    assert PASSWORD not in repr(place)
    assert place.shown == f"postgresql://{USER}:***@h/d"
    assert place_of(Path("a://b")).file == Path("a://b")
