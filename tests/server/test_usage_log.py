"""Usage outlives what happens to its ledger: a lock held for long, a full disk, a file that goes away, a database that
stops. Nothing of it stops the server, or keeps it from ending."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from patience import wait_until
from postgres_server import PASSWORD, PostgresServer

from landrace.ledger import Ledger, Usage
from landrace.server import usage as usage_module
from landrace.server.usage import UsageLog


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"_PATIENCE": 0.2, "_FIRST_PAUSE": 0.05, "_LONGEST_PAUSE": 0.1, "_END": 1.0}.items():
        monkeypatch.setattr(usage_module, name if "PAUSE" in name else f"{name}_SECONDS", seconds)


def usage(number: int) -> Usage:
    return Usage(f"r{number}", "m", 10, 4, 3, 0.5, 1.0, 2.0, "stop", machine_seconds=1.8, kind="chat")


def opened(place: str | Path, **how: Any) -> UsageLog:
    return UsageLog(str(place), name="m", command="landrace serve m", config={}, price_per_hour=2.0, **how)


def stored(place: str | Path) -> list[str]:
    with Ledger(place) as ledger:
        return sorted(row.request_id for row in ledger.usage())


def spill_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-spill-*"))


def test_rows_have_their_run_and_their_cost(tmp_path: Path) -> None:
    log = opened(tmp_path / "l.db")
    log.put([usage(1)])
    log.close("finished")
    with Ledger(tmp_path / "l.db") as ledger:
        (row,), (run,) = ledger.usage(), ledger.runs()
    assert (row.run_id, run.status, row.kind) == (run.id, "finished", "chat")
    assert str(row.cost) == "0.001000000"
    assert spill_files(tmp_path) == []


def test_a_lock_that_is_held_for_long(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    log = opened(path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    log.put([usage(1)])
    wait_until(lambda: log.state.spilled == 1)
    assert log.state.status == "degraded"
    assert log.state.reason == "The ledger cannot be written: database is locked."
    log.put([usage(2), usage(3)])
    wait_until(lambda: log.state.spilled == 3)
    holder.execute("ROLLBACK")
    holder.close()
    wait_until(lambda: log.state.status == "ok" and not log.state.spilled)
    assert spill_files(tmp_path) == []
    log.close("finished")
    assert stored(path) == ["r1", "r2", "r3"]


def test_the_end_comes_although_the_ledger_is_held(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "l.db"
    log = opened(path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    log.put([usage(1), usage(2)])
    log.close("finished")
    (spilled,) = spill_files(tmp_path)
    assert f"The usage of 2 requests is not in the ledger but in {spilled}" in caplog.text
    assert "How this run of the server ended was not recorded" in caplog.text
    holder.execute("ROLLBACK")
    holder.close()
    log = opened(path)
    wait_until(lambda: spill_files(tmp_path) == [])
    log.close("finished")
    assert stored(path) == ["r1", "r2"]
    with Ledger(path) as ledger:
        assert [(run.id, run.status) for run in ledger.runs()] == [(2, "finished"), (1, "running")]
        assert {row.run_id for row in ledger.usage()} == {1}


def test_a_writer_that_hangs_keeps_no_server_from_ending(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "l.db"
    monkeypatch.setattr(usage_module, "_PATIENCE_SECONDS", 30.0)
    monkeypatch.setattr(usage_module, "_HANG_SECONDS", 0.5)
    log = opened(path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    log.put([usage(1)])
    wait_until(lambda: log.state.waiting == 1)
    log.close("failed")
    assert f"but in {spill_files(tmp_path)[0]}" in caplog.text
    holder.execute("ROLLBACK")
    holder.close()
    # What hung goes on and stores what it had; the file that stands for it is taken up and changes nothing.
    wait_until(lambda: stored(path) == ["r1"])
    for file in log._queue._spills:
        file.close()
    again = opened(path)
    wait_until(lambda: spill_files(tmp_path) == [])
    again.close("finished")
    assert stored(path) == ["r1"]


def test_a_ledger_that_vanishes_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    log = opened(path, spill=tmp_path / "elsewhere")
    log.put([usage(1)])
    wait_until(lambda: stored(path) == ["r1"])
    path.rename(tmp_path / "away.db")
    log.put([usage(2)])
    wait_until(lambda: log.state.spilled == 1)
    assert log.state.reason == "The ledger cannot be written: No such file or directory."
    assert not path.exists()
    (tmp_path / "away.db").rename(path)
    wait_until(lambda: log.state.status == "ok")
    log.close("finished")
    assert stored(path) == ["r1", "r2"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_ledger_that_was_put_back_from_an_older_copy(tmp_path: Path) -> None:
    """It lacks the run; the rows bring it along."""
    path = tmp_path / "l.db"
    with Ledger(path) as ledger:
        ledger.start_run("serve", "earlier", command="", config={})
    shutil.copy(path, tmp_path / "copy.db")
    log = opened(path)
    log.put([usage(1)])
    wait_until(lambda: stored(path) == ["r1"])
    for file in tmp_path.glob("l.db*"):
        file.unlink()
    (tmp_path / "copy.db").rename(path)
    log.put([usage(2)])
    wait_until(lambda: stored(path) == ["r2"])
    log.close("finished")
    with Ledger(path) as ledger:
        assert [(run.name, run.status) for run in ledger.runs()] == [("m", "finished"), ("earlier", "running")]
        assert ledger.usage()[0].run_id == ledger.runs()[0].id


def test_a_spill_is_taken_up_by_a_new_ledger_with_its_run(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    log = opened(path)
    path.unlink()
    log.put([usage(1)])
    wait_until(lambda: log.state.spilled == 1)
    log.close("finished")
    for file in tmp_path.glob("l.db-[sw][ha][ml]*"):
        file.unlink()
    again = opened(path)
    wait_until(lambda: stored(path) == ["r1"])
    again.close("finished")
    with Ledger(path) as ledger:
        runs = {run.id: run.status for run in ledger.runs()}
        assert runs == {1: "finished", 2: "running"}
        assert ledger.usage()[0].run_id == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """First with the spill on another disk, then with no room for it anywhere but in memory."""
    path = small_disk / "l.db"
    log = opened(path, spill=tmp_path / "elsewhere")
    log.put([usage(0)])
    wait_until(lambda: stored(path) == ["r0"])
    ballast = fill(small_disk)
    log.put([usage(number) for number in range(1, 2000)])
    wait_until(lambda: log.state.status == "degraded" and not log.state.waiting)
    assert "full" in str(log.state.reason)
    ballast.unlink()
    wait_until(lambda: log.state.status == "ok" and not log.state.spilled)
    log.close("finished")
    assert len(stored(path)) == 2000

    log = opened(path)
    ballast = fill(small_disk)
    log.put([usage(number) for number in range(2000, 2500)])
    wait_until(lambda: log.state.status == "degraded")
    assert log.state.waiting > 0
    assert (log.state.lost, log.state.waiting + log.state.spilled) == (0, 500)
    ballast.unlink()
    wait_until(lambda: log.state.status == "ok")
    log.close("finished")
    assert len(stored(path)) == 2500
    assert spill_files(small_disk) == []


def fill(folder: Path) -> Path:
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as stream:
        try:
            while stream.write(b"x" * 4096):
                pass
        except OSError:
            return ballast
    raise AssertionError("the disk has no end")


def test_a_disk_that_cannot_be_written(small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the ledger nor the spill beside it: the end comes, and says what is lost."""
    path = small_disk / "l.db"
    opened(path).close("finished")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(Exception, match="cannot be"):
        opened(path)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    log = opened(path)
    fill(small_disk)
    log.put([usage(number) for number in range(3000)])
    wait_until(lambda: log.state.status == "degraded")
    log.close("finished")
    state = log.state
    assert state.waiting > 0
    assert f"The usage of {state.waiting} requests is lost" in caplog.text


def test_a_database_that_stops_and_starts(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = opened(postgres_url, spill=tmp_path)
    log.put([usage(1)])
    wait_until(lambda: stored(postgres_url) == ["r1"])
    postgres_server.stop()
    try:
        log.put([usage(2)])
        wait_until(lambda: log.state.spilled == 1)
        assert log.state.reason == "The ledger cannot be written: the database does not answer."
        log.put([usage(3)])
        wait_until(lambda: log.state.spilled == 2)
    finally:
        postgres_server.start()
    wait_until(lambda: log.state.status == "ok" and not log.state.spilled)
    log.close("finished")
    assert stored(postgres_url) == ["r1", "r2", "r3"]
    assert spill_files(tmp_path) == []
    assert PASSWORD not in caplog.text


def test_the_end_comes_although_the_database_is_gone(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = opened(postgres_url, spill=tmp_path)
    postgres_server.stop()
    try:
        log.put([usage(1)])
        log.close("finished")
    finally:
        postgres_server.start()
    assert f"but in {spill_files(tmp_path)[0]}" in caplog.text
    assert PASSWORD not in caplog.text
    again = opened(postgres_url, spill=tmp_path)
    wait_until(lambda: stored(postgres_url) == ["r1"])
    again.close("finished")


def test_several_servers_share_a_database(postgres_url: str, tmp_path: Path) -> None:
    logs = [opened(postgres_url, spill=tmp_path) for _ in range(3)]
    for step in range(20):
        for log in logs:
            log.put([usage(step)])
    for log in logs:
        log.close("finished")
    with Ledger(postgres_url) as ledger:
        rows = ledger.usage()
        assert [run.status for run in ledger.runs()] == ["finished"] * 3
    assert len({(row.run_id, row.request_id) for row in rows}) == len(rows) == 60


def test_nothing_is_recorded_without_a_ledger() -> None:
    log = UsageLog(None, name="m", command="", config={})
    log.put([usage(1)])
    assert log.state.status == "ok"
    log.close("finished")


def test_warnings_come_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "l.db"
    log = opened(path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with caplog.at_level(logging.WARNING):
        log.put([usage(1)])
        wait_until(lambda: log.state.status == "degraded")
        attempts = _attempts(log)
        wait_until(lambda: len(attempts) > 2)
        holder.close()
        wait_until(lambda: log.state.status == "ok")
    log.close("finished")
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "The ledger cannot be written",
        "The ledger takes usage again.",
    ]


def _attempts(log: UsageLog) -> Sequence[object]:
    """Grows with every attempt from now on."""
    made: list[object] = []
    store = log._queue._store

    def counted(*arguments: Any) -> None:
        made.append(arguments)
        store(*arguments)

    log._queue._store = counted  # type: ignore[method-assign]
    return made
