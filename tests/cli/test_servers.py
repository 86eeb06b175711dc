"""`ps` and `stop`, with processes in place of servers: who is meant, what is said, what is sent."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from landrace.cli import servers
from landrace.cli.servers import chosen
from landrace.errors import OptionError
from landrace.server.running import RunningModel, RunningServer, process_began

# Ends at the signal of this number.
PROCESS = """
import signal, sys, time
left = [int(sys.argv[1])]
def told(*_):
    left[0] -= 1
    if not left[0]:
        sys.exit(0)
signal.signal(signal.SIGTERM, told)
print("ready", flush=True)
while True:
    time.sleep(600)
"""
Serve = Callable[..., tuple[subprocess.Popen[str], RunningServer]]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """A process that ends at the n-th SIGTERM, and the file of a server that has its number."""
    monkeypatch.setenv("LANDRACE_HOME", str(tmp_path))
    (tmp_path / "servers").mkdir()
    started = []

    def start(
        port: int, *models: RunningModel, signals: int = 1, drain: int = 60
    ) -> tuple[subprocess.Popen[str], RunningServer]:
        command = [sys.executable, "-c", PROCESS, str(signals)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline()
        began = process_began(process.pid)
        assert began is not None
        told = RunningServer(
            process.pid, began, socket.gethostname(), f"http://localhost:{port}", port, drain, False, models
        )
        (tmp_path / "servers" / f"{process.pid}.json").write_text(json.dumps(asdict(told)))
        return process, told

    yield start
    for process in started:
        process.kill()
        process.wait()


TINY = RunningModel("tiny", "open", 240_000_000, 2, 1, ("support", "sales"))
CLOSED = RunningModel("org/large", "closed", 0, 0, 0, ())


def test_ps_lists_servers_and_their_models(serve: Serve, landrace: Any) -> None:
    first, told = serve(8000, TINY, CLOSED)
    serve(8001, CLOSED)
    code, text, _ = landrace("ps")
    assert code == 0
    head, *rows = text.splitlines()
    assert head.split()[:5] == ["address", "pid", "since", "model", "state"]
    assert [row.split()[0] for row in rows] == ["http://localhost:8000", "org/large", "http://localhost:8001"]
    assert "tiny" in rows[0] and "240.0 MB" in rows[0] and "support, sales" in rows[0]
    code, text, _ = landrace("ps", "--json")
    assert json.loads(text)[0] == json.loads(json.dumps(asdict(told)))
    first.kill()
    first.wait()
    code, text, _ = landrace("ps", "--json")
    assert [server["url"] for server in json.loads(text)] == ["http://localhost:8001"]


def test_without_servers_both_say_so(serve: Serve, landrace: Any) -> None:
    assert landrace("ps") == (0, "", "No server runs. Start one with: landrace serve smollm2\n")
    assert landrace("ps", "--json")[:2] == (0, "[]\n")
    assert landrace("stop", "all")[0] == 0
    code, _, said = landrace("stop")
    assert code == 1 and "There is no server to stop." in said


def test_stop_waits_until_the_server_has_ended(serve: Serve, landrace: Any) -> None:
    process, _ = serve(8000, TINY)
    other, _ = serve(8001, CLOSED)
    code, _, said = landrace("stop", "tiny")
    assert code == 0 and process.wait(60) == 0 and other.poll() is None
    assert f"Stopping http://localhost:8000 (process {process.pid}). It has 3 requests to finish." in said
    assert "http://localhost:8000 has stopped." in said
    assert landrace("stop")[0] == 0 and other.wait(60) == 0


def test_stop_now_tells_it_twice(serve: Serve, landrace: Any) -> None:
    process, _ = serve(8000, TINY, signals=2)
    code, _, said = landrace("stop", "--now")
    assert code == 0 and process.wait(60) == 0 and "to finish" not in said


def test_stop_all_stops_all(serve: Serve, landrace: Any) -> None:
    processes = [serve(port, TINY)[0] for port in (8000, 8001)]
    assert landrace("stop", "all")[0] == 0
    assert [process.wait(60) for process in processes] == [0, 0]


def test_one_that_does_not_end_is_told_of(serve: Serve, landrace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    process, _ = serve(8000, TINY, signals=99, drain=0)
    monkeypatch.setattr(servers, "_ENDING_SECONDS", 0)
    code, _, said = landrace("stop")
    assert code == 1 and process.poll() is None
    assert "has not stopped within 0 seconds" in said and f"kill -9 {process.pid}" in said


def test_who_is_meant() -> None:
    def server(pid: int, url: str, *models: RunningModel) -> RunningServer:
        return RunningServer(pid, "", "", url, 0, 0, False, models)

    one, two = server(11, "http://localhost:8000", TINY), server(22, "https://10.0.0.5:8001", TINY, CLOSED)
    for which in ("11", "8000", ":8000", "localhost:8000", "127.0.0.1:8000", "http://localhost:8000/v1/"):
        assert chosen([one, two], which) == [one], which
    for which in ("22", "8001", "10.0.0.5:8001", "https://10.0.0.5:8001", "org/large"):
        assert chosen([one, two], which) == [two], which
    assert chosen([one, two], "all") == [one, two]
    assert chosen([one], None) == [one]
    for which in (None, "tiny", "support"):
        with pytest.raises(OptionError, match="Several") as error:
            chosen([one, two], which)
        assert error.value.hint is not None and "process 22" in error.value.hint
    for which in ("1", "800", "localhost", "", "tin", "all "):
        with pytest.raises(OptionError, match="No server is"):
            chosen([one, two], which)
