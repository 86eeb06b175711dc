"""The files by which servers of this machine are found: those that are stale say nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from landrace.server import running
from landrace.server.running import RunningModel, RunningServer, ServerFile, process_began, running_servers

MODEL = RunningModel("tiny", "open", 1000, 1, 2, ("own",))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def own(tmp_path: Path) -> RunningServer:
    """The server of this process."""
    ServerFile(tmp_path, "http://localhost:8000", 5.0, 60).write([MODEL])
    (server,) = running_servers(tmp_path)
    return server


def put(home: Path, server: RunningServer, **changed: Any) -> Path:
    server = replace(server, **changed)
    path = home / "servers" / f"{server.pid}.json"
    path.write_text(json.dumps(asdict(server)))
    return path


def test_a_server_is_found_as_it_told_of_itself(tmp_path: Path) -> None:
    file = ServerFile(tmp_path, "http://localhost:8000", 5.0, 60)
    file.write([MODEL])
    (server,) = running_servers(tmp_path)
    assert (server.pid, server.url, server.since, server.models) == (
        os.getpid(),
        "http://localhost:8000",
        5.0,
        (MODEL,),
    )
    path = tmp_path / "servers" / f"{os.getpid()}.json"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    before = path.stat().st_ino
    file.write([MODEL])
    assert path.stat().st_ino == before  # no news, nothing is written
    file.write([replace(MODEL, running=0)], stopping=True)
    (server,) = running_servers(tmp_path)
    assert server.stopping and server.models[0].running == 0
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    file.remove()
    assert running_servers(tmp_path) == []
    file.remove()


def test_the_oldest_is_first(tmp_path: Path, own: RunningServer, sleeper: subprocess.Popen[bytes]) -> None:
    put(tmp_path, own, pid=sleeper.pid, began=process_began(sleeper.pid), since=1.0)
    assert [server.pid for server in running_servers(tmp_path)] == [sleeper.pid, os.getpid()]


def test_files_of_processes_that_are_gone_go_too(
    tmp_path: Path, own: RunningServer, sleeper: subprocess.Popen[bytes]
) -> None:
    path = put(tmp_path, own, pid=sleeper.pid, began=process_began(sleeper.pid))
    assert len(running_servers(tmp_path)) == 2
    sleeper.kill()  # nobody has asked how it ended: its number is still there
    while process_began(sleeper.pid) is not None:
        pass
    assert running_servers(tmp_path) == [own]
    assert not path.exists()


def test_a_number_that_another_process_has_now_is_no_server(
    tmp_path: Path, own: RunningServer, sleeper: subprocess.Popen[bytes]
) -> None:
    path = put(tmp_path, own, pid=sleeper.pid)
    assert running_servers(tmp_path) == [own]
    assert not path.exists() and sleeper.poll() is None
    replace(own, pid=sleeper.pid).tell_to_stop()
    assert sleeper.poll() is None


def test_other_machines_are_left_alone(tmp_path: Path, own: RunningServer) -> None:
    path = put(tmp_path, own, host="elsewhere", pid=2**22 + 1)
    assert running_servers(tmp_path) == [own]
    assert path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"models": [1]}', '{"models": [], "pid": 1}', "\xff"])
def test_what_is_no_server_s_file_is_ignored(tmp_path: Path, own: RunningServer, text: str) -> None:
    (tmp_path / "servers" / "77.json").write_bytes(text.encode("latin-1"))
    (tmp_path / "servers" / "notes.json").write_text("mine")
    assert running_servers(tmp_path) == [own]
    assert {path.name for path in (tmp_path / "servers").iterdir()} == {f"{own.pid}.json", "notes.json"}


def test_a_file_speaks_for_its_own_process_only(tmp_path: Path, own: RunningServer) -> None:
    path = put(tmp_path, own)
    path.rename(path.with_name("77.json"))
    assert running_servers(tmp_path) == []


def test_another_user_s_file_is_ignored(tmp_path: Path, own: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.os, "getuid", lambda: 12345678)
    assert running_servers(tmp_path) == []
    monkeypatch.undo()
    assert running_servers(tmp_path) == [own]


def test_processes_are_told_apart_without_proc(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_BOOT", Path("/nowhere"))
    assert process_began(sleeper.pid) == process_began(sleeper.pid) != None  # noqa: E711
    sleeper.kill()
    sleeper.wait()
    assert process_began(sleeper.pid) is None


def test_a_file_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "servers").write_text("in the way")
    with pytest.raises(OSError):
        ServerFile(tmp_path, "http://localhost:8000", 5.0, 60).write([MODEL])
