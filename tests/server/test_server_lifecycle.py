"""What becomes of requests, processes and the ledger when clients leave, processes are killed or told to stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from patience import SECONDS, wait_until
from said import without_progress

from landrace.ledger import Ledger, Usage

ROOT = Path(__file__).resolve().parents[2]
# Long enough that a test which waits for its end fails.
FOREVER = 120_000
SHORT = {"prompt": "a", "max_tokens": 2, "ignore_eos": True}
LONG = {"prompt": "b", "max_tokens": FOREVER, "ignore_eos": True}


@pytest.fixture(scope="module")
def arguments(tiny_model: Path) -> tuple[str, ...]:
    """A server with one seat and a waiting room of one."""
    sizes = ("--max-running", "1", "--max-pending", "2", "--cache-tokens", "131072")
    return (str(tiny_model), *sizes, "--drain-seconds", "600")


@pytest.fixture(scope="module")
def narrow(start_server: Any, arguments: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return start_server(*arguments, ledger=tmp_path_factory.mktemp("narrow") / "usage.db")


class Caller:
    """A call on a socket of its own, which can be closed in the middle."""

    def __init__(self, server: Any, model: str, body: dict[str, Any]) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        content = json.dumps({"model": model, **body})
        self.socket = socket.create_connection((host, int(port)), timeout=SECONDS)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        self.socket.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n{content}".encode())

    def read_until(self, mark: bytes) -> None:
        seen = b""
        while mark not in seen:
            part = self.socket.recv(4096)
            assert part, seen
            seen += part

    def close(self) -> None:
        self.socket.close()


def rows(server: Any) -> list[Usage]:
    with Ledger(server.ledger) as ledger:
        return ledger.usage()


def aborted(server: Any) -> list[Usage]:
    return [row for row in rows(server) if row.finish_reason == "abort"]


def unfinished(server: Any) -> int:
    return int(server.get("/health").json()["unfinished_requests"])


def short(server: Any, model: str) -> httpx.Response:
    return server.post("/v1/completions", {"model": model, **SHORT})


def test_clients_that_leave_free_their_places(narrow: Any, arguments: tuple[str, ...]) -> None:
    model = arguments[0]
    running = Caller(narrow, model, {**LONG, "stream": True})
    running.read_until(b"data: ")
    waiting = Caller(narrow, model, {**LONG, "stream": True})
    wait_until(lambda: unfinished(narrow) == 2)
    assert short(narrow, model).status_code == 429
    error = short(narrow, model).json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")

    # The one that waits has not been sent a byte.
    waiting.close()
    wait_until(lambda: unfinished(narrow) == 1)
    wait_until(lambda: len(aborted(narrow)) == 1)
    assert aborted(narrow)[0].completion_tokens == 0
    with ThreadPoolExecutor() as pool:
        # Its place is free; the seat is not, until the stream is closed as well.
        next_one = pool.submit(short, narrow, model)
        wait_until(lambda: unfinished(narrow) == 2)
        running.close()
        assert next_one.result(SECONDS).status_code == 200
    wait_until(lambda: len(aborted(narrow)) == 2)
    assert 0 < aborted(narrow)[1].completion_tokens < FOREVER


def test_a_client_that_leaves_before_a_whole_answer_frees_every_choice(narrow: Any, arguments: tuple[str, ...]) -> None:
    model, before = arguments[0], len(aborted(narrow))
    caller = Caller(narrow, model, {**LONG, "n": 2})
    wait_until(lambda: unfinished(narrow) == 2)
    caller.close()
    wait_until(lambda: unfinished(narrow) == 0)
    assert short(narrow, model).status_code == 200
    wait_until(lambda: len(aborted(narrow)) == before + 2)


def test_a_term_signal_lets_running_answers_finish(narrow: Any, arguments: tuple[str, ...], runs: Any) -> None:
    model, (engine,) = arguments[0], narrow.engine_pids()
    host, port = narrow.url.removeprefix("http://").split(":")

    def refused() -> bool:
        try:
            socket.create_connection((host, int(port)), timeout=SECONDS).close()
        except ConnectionError:
            return True
        return False

    streamed = {"model": model, **LONG, "max_tokens": 3000, "stream": True, "stream_options": {"include_usage": True}}
    whole = {"model": model, **LONG, "max_tokens": 200}
    with ThreadPoolExecutor() as pool, httpx.Client(timeout=SECONDS) as client:
        with client.stream("POST", f"{narrow.url}/v1/completions", json=streamed) as reply:
            lines = reply.iter_lines()
            assert next(lines).startswith("data: ")
            waiting = pool.submit(narrow.post, "/v1/completions", whole)
            wait_until(lambda: unfinished(narrow) == 2)
            narrow.process.terminate()
            wait_until(refused)
            events = [line for line in lines if line]
        assert events[-1] == "data: [DONE]"
        assert json.loads(events[-2].removeprefix("data: "))["usage"]["completion_tokens"] == 3000
        assert waiting.result(SECONDS).json()["usage"]["completion_tokens"] == 200
    assert narrow.process.wait(SECONDS) == 0
    assert not runs(engine)
    assert [(row.finish_reason, row.completion_tokens) for row in rows(narrow)[-2:]] == [
        ("length", 3000),
        ("length", 200),
    ]
    with Ledger(narrow.ledger) as ledger:
        assert [run.status for run in ledger.runs(kind="serve")] == ["finished"]
    assert "Traceback" not in "".join(narrow.lines)


def test_a_second_signal_ends_what_is_running(
    start_server: Any, arguments: tuple[str, ...], tmp_path: Path, runs: Any
) -> None:
    server = start_server(*arguments, ledger=tmp_path / "usage.db")
    body = {"model": arguments[0], **LONG, "stream": True}
    with (
        httpx.Client(timeout=SECONDS) as client,
        client.stream("POST", f"{server.url}/v1/completions", json=body) as reply,
    ):
        (engine,) = server.engine_pids()
        lines = reply.iter_lines()
        assert next(lines).startswith("data: ")
        server.process.send_signal(signal.SIGINT)
        for _ in range(200):
            next(lines)
        server.process.send_signal(signal.SIGTERM)
        events = [line for line in lines if line]
    error = json.loads(events[-2].removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("server_error", "engine_stopped")
    assert server.process.wait(SECONDS) == 0
    wait_until(lambda: not runs(engine))
    assert [row.finish_reason for row in rows(server)] == ["error"]
    with Ledger(server.ledger) as ledger:
        assert [run.status for run in ledger.runs(kind="serve")] == ["interrupted"]


def test_killed_processes(start_server: Any, tiny_model: Path, tmp_path: Path, runs: Any) -> None:
    twin = tmp_path / "twin"
    twin.symlink_to(tiny_model)
    names = {str(tiny_model), str(twin)}
    server = start_server(*names, "--max-length", "100000", "--cache-tokens", "100000")
    client = server.client
    call = {"prompt": "b", "max_tokens": 99_000, "extra_body": {"ignore_eos": True}}
    streams = {name: iter(client.completions.create(model=name, stream=True, **call)) for name in names}
    for stream in streams.values():
        next(stream)
    killed, spared = server.engine_pids()
    os.kill(killed, signal.SIGKILL)

    # Of two engines one is gone: its calls end with an error, new ones are refused until it is back.
    wait_until(lambda: server.get("/ready").status_code == 503)
    (lost,) = server.get("/ready").json()["engines"]
    assert server.get("/health").json()["status"] == "degraded"
    refused = server.post("/v1/completions", {"model": lost, **SHORT})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_restarting")
    assert int(refused.headers["retry-after"]) >= 1
    with pytest.raises(openai.APIError, match="exit code -9"):
        list(streams[lost])
    (other,) = names - {lost}
    next(streams[other])
    assert server.post("/v1/completions", {"model": other, **SHORT}).status_code == 200
    wait_until(lambda: server.get("/ready").status_code == 200)
    assert server.post("/v1/completions", {"model": lost, **SHORT}).status_code == 200
    assert "exit code -9" in "".join(server.lines)

    # The server itself is gone: the other engine sees it and ends.
    server.process.kill()
    wait_until(lambda: not runs(spared))


@pytest.mark.parametrize("problem", ["no such model", "no such adapter", "port in use", "same name twice"])
def test_what_cannot_start_says_so_in_one_sentence(problem: str, tiny_model: Path, tmp_path: Path, launch: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        arguments = {
            "no such model": ["nosuch"],
            "no such adapter": [str(tiny_model), "--adapter", f"a={tmp_path / 'nosuch'}"],
            "port in use": [str(tiny_model), "--port", str(taken.getsockname()[1])],
            "same name twice": [str(tiny_model), "--adapter", f"{tiny_model}={tmp_path}"],
        }[problem]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "300"}
        ledger = ["--ledger", str(tmp_path / "usage.db")]
        done = subprocess.run(
            [sys.executable, "-c", launch, "serve", *arguments, *ledger],
            capture_output=True,
            text=True,
            env=environment,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    lines = without_progress(done.stderr).strip().splitlines()
    assert [line.partition(" ")[0] for line in lines] in (["error:"], ["error:", "hint:"]), done.stderr
    if problem in ("no such model", "no such adapter"):
        with Ledger(tmp_path / "usage.db") as recorded:
            assert [run.status for run in recorded.runs()] == ["failed"]
