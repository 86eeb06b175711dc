"""No usage is lost that fits anywhere and none is stored twice, whatever fails when: the ledger, its answer, the disk
of the spill file, or the server."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from landrace.errors import DataError, LedgerUnavailableError
from landrace.ledger import Machine, Run, Usage, utc_now
from landrace.server import usage_spill
from landrace.server.usage_queue import UsageQueue
from landrace.server.usage_spill import SpillFile, SpillFolder

MACHINE = Machine(cpu="a cpu", cores=2, memory_bytes=1 << 34, system="Linux", python="3.11.7", torch="2.13.0")
MOST = 8


def usage(number: int) -> Usage:
    return Usage(f"r{number}", "m", 10, 4, 3, 0.5, 1.0, 2.0, "stop", key_id="k", kind="chat", machine_seconds=0.25)


def a_run(name: str = "m") -> Run:
    return Run(7, "serve", name, "running", utc_now(), None, "landrace serve", {"x": 1}, "0.1", None, MACHINE)


class Shelf:
    """A ledger as the queue sees it: stores a request of a run once, or fails, before or after it has stored."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []
        self.outcomes: list[str] = []
        """What the next batches meet; then all is well."""

    def store(self, run: Run, rows: Sequence[Usage]) -> None:
        outcome = self.outcomes.pop(0) if self.outcomes else "well"
        if outcome == "away":
            raise LedgerUnavailableError("The ledger x is away.", "it is away")
        if outcome == "refused":
            raise DataError("The ledger refused a row.")
        for row in rows:
            if (run.name, row.request_id) not in self.rows:
                self.rows.append((run.name, row.request_id))
        if outcome == "answer lost":
            raise LedgerUnavailableError("The ledger x is away.", "it is away")


class Disk:
    """Lets the first bytes of a write through and fails then, or fails when what is written is to be made durable."""

    def __init__(self) -> None:
        self.room: int | None = None
        self._write = usage_spill.write_durably

    def write(self, descriptor: int, data: bytes, place: int) -> None:
        if self.room is None:
            self._write(descriptor, data, place)
            return
        self._write(descriptor, data[: self.room], place)
        raise OSError(errno.ENOSPC, "No space left on device")

    @contextmanager
    def used(self) -> Iterator[None]:
        with mock.patch.object(usage_spill, "write_durably", self.write):
            yield


class Servers(RuleBasedStateMachine):
    """Servers one after another on one ledger, each with a queue of a few rows."""

    @initialize()
    def begin(self) -> None:
        self.shelf, self.disk = Shelf(), Disk()
        self.home = tempfile.TemporaryDirectory()
        self.folder = SpillFolder(str(Path(self.home.name) / "l.db"), None)
        self.number = self.servers = 0
        self.told: set[tuple[str, str]] = set()
        """Rows that a server took and has not counted as lost."""
        self.start()

    def start(self) -> None:
        self.servers += 1
        self.run_ = a_run(f"server {self.servers}")
        self.queue = UsageQueue(self.run_, self.shelf.store, self.folder, most_waiting=MOST)

    @rule(count=st.integers(1, 5))
    def put(self, count: int) -> None:
        rows = [usage(self.number + i) for i in range(count)]
        self.number += count
        before = self.queue.state
        self.queue.put(rows)
        fit = count - (self.queue.state.lost - before.lost)
        assert fit == min(count, MOST - before.waiting)
        self.told |= {(self.run_.name, row.request_id) for row in rows[:fit]}

    @rule(outcomes=st.lists(st.sampled_from(["well", "away", "answer lost"]), max_size=3))
    def write(self, outcomes: list[str]) -> None:
        self.shelf.outcomes = outcomes
        with self.disk.used():
            done = self.queue.write()
        assert done == (not (self.queue.state.waiting or self.queue.state.spilled))
        assert (self.queue.state.status == "ok") == done

    @rule()
    def spill(self) -> None:
        with self.disk.used():
            self.queue.spill()

    @rule(room=st.none() | st.integers(0, 3000))
    def fill_the_disk(self, room: int | None) -> None:
        self.disk.room = room

    @rule()
    def kill(self) -> None:
        """What is in memory dies with the server; what was spilled must not."""
        with self.queue._lock:
            dead = {(self.run_.name, row.request_id) for row in self.queue._waiting}
        self.told -= dead - set(self.shelf.rows)
        self.queue.close()
        self.start()

    @rule()
    def hang(self) -> None:
        """The server ends while its writer hangs in a batch that is stored or not."""
        with self.disk.used():
            self.queue.abandon()
        self.kill()

    @invariant()
    def nothing_is_stored_twice(self) -> None:
        assert len(set(self.shelf.rows)) == len(self.shelf.rows)
        state = self.queue.state
        assert state.waiting <= MOST
        assert len(self.told) <= len(self.shelf.rows) + state.waiting + state.spilled

    def teardown(self) -> None:
        if not hasattr(self, "shelf"):
            return
        self.shelf.outcomes, self.disk.room = [], None
        assert self.queue.write()
        assert self.told <= set(self.shelf.rows)
        assert [path.name for path in Path(self.home.name).iterdir()] == []
        self.queue.close()
        self.home.cleanup()


TestServers = Servers.TestCase
TestServers.settings = settings(max_examples=60, stateful_step_count=30)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def queue(shelf: Shelf, tmp_path: Path) -> Callable[..., UsageQueue]:
    return lambda **how: UsageQueue(a_run(), shelf.store, SpillFolder(str(tmp_path / "l.db"), None), **how)


def test_a_row_that_is_refused_stops_no_other(shelf: Shelf, queue: Callable[..., UsageQueue]) -> None:
    one = queue()
    one.put([usage(1), usage(2), usage(3)])
    shelf.outcomes = ["refused", "well", "refused"]
    assert one.write()
    assert [name for _, name in shelf.rows] == ["r1", "r3"]
    assert (one.state.refused, one.state.status) == (1, "ok")
    one.put([replace(usage(4), total_seconds=float("nan")), usage(5)])
    assert (one.state.refused, one.state.waiting) == (2, 1)


def test_the_state_says_why(shelf: Shelf, queue: Callable[..., UsageQueue]) -> None:
    one = queue()
    one.put([usage(1)])
    shelf.outcomes = ["away"]
    assert not one.write()
    assert (one.state.status, one.state.reason) == ("degraded", "The ledger cannot be written: it is away.")
    assert (one.state.waiting, one.state.spilled) == (0, 1)
    assert one.write()
    assert (one.state.status, one.state.reason, one.state.spilled) == ("ok", None, 0)


def test_a_living_server_s_file_is_left_alone(queue: Callable[..., UsageQueue]) -> None:
    one, other = queue(), queue()
    one.put([usage(1)])
    one.spill()
    assert queue().state.spilled == 0
    one.close()
    assert (queue().state.spilled, other.state.spilled) == (1, 0)


def test_rows_come_back_as_they_were_with_their_run(tmp_path: Path) -> None:
    run = a_run()
    file = SpillFile.create(tmp_path / "x-spill-1.jsonl", run)
    rows = [usage(i) for i in range(3)]
    file.append(rows)
    file.close()
    again = SpillFile.take_up(file.path)
    assert again is not None
    assert replace(again.run, id=7) == run
    assert again.read(2).rows == rows[:2]
    again.forget(again.read(2))
    assert (again.read(9).rows, again.pending) == (rows[2:], 1)


def test_a_line_that_was_cut_off_is_left_out(shelf: Shelf, queue: Callable[..., UsageQueue], tmp_path: Path) -> None:
    one = queue()
    one.put([usage(1), usage(2)])
    one.spill()
    one.close()
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-5])
    assert queue().write()
    assert [name for _, name in shelf.rows] == ["r1"]
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_line_costs_itself_alone_and_the_file_is_kept(
    shelf: Shelf, queue: Callable[..., UsageQueue], tmp_path: Path
) -> None:
    one = queue()
    one.put([usage(1), usage(2), usage(3)])
    one.spill()
    one.close()
    (path,) = tmp_path.glob("*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"\xff{" + lines[2][2:], *lines[3:]]))
    assert queue().write()
    assert [name for _, name in shelf.rows] == ["r1", "r3"]
    assert [file.suffix for file in tmp_path.iterdir()] == [".unreadable"]


@pytest.mark.parametrize("content", [b"", b"\n", b"no JSON\n", b"{}\n", b"[1]\n", b'{"kind": 1}'])
def test_what_is_no_spill_file_is_left_as_it_is(
    queue: Callable[..., UsageQueue], tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "l.db-spill-20260101T000000-1-0.jsonl"
    path.write_bytes(content)
    one = queue()
    assert one.write()
    assert path.read_bytes() == content


def test_a_spill_file_is_bounded(queue: Callable[..., UsageQueue], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_spill, "MOST_BYTES", 3000)
    one = queue(most_waiting=20)
    for number in range(30):
        one.put([usage(number)])
        one.spill()
    state = one.state
    assert state.spilled > 3
    assert (state.waiting, state.spilled + state.waiting + state.lost) == (20, 30)


def test_each_ledger_has_files_of_its_own(tmp_path: Path) -> None:
    ledgers = [
        "a.db",
        "a.db-spill-20260101T000000-1-0.jsonl",
        "a*.db",
        "ab.db",
        "postgresql://u:secret@h/d",
        "postgresql://u:other@h/e",
    ]
    folders = [SpillFolder(name if "://" in name else str(tmp_path / name), tmp_path) for name in ledgers]
    made = [folder.new(a_run()) for folder in folders]
    for file in made:
        file.close()
    assert all("secret" not in file.path.name for file in made)
    for folder, file in zip(folders, made, strict=True):
        found = folder.left()
        assert [one.path for one in found] == [file.path]
        for one in found:
            one.close()
