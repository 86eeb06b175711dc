"""Driving the real server: what is counted, what is timed, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from landrace.bench import serve_load
from landrace.bench.serve_load import Percentiles, drive_server
from landrace.errors import LandraceError, OptionError, StoreError
from landrace.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(autouse=True)
def one_quiet_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the server's processes, which must also find the package."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


Servers = Callable[[], list[psutil.Process]]


@pytest.fixture
def servers() -> Servers:
    """The servers that a test started and that still run: other tests of the same process may keep theirs."""

    def running() -> list[psutil.Process]:
        return [child for child in psutil.Process().children() if "serve" in child.cmdline()]

    others = {child.pid for child in running()}
    return lambda: [child for child in running() if child.pid not in others]


def test_every_request_is_answered_in_full(tiny_model: Path, tmp_path: Path, servers: Servers) -> None:
    ledger = tmp_path / "usage.db"
    report = drive_server(
        str(tiny_model),
        clients=4,
        requests=10,
        prompt_tokens=40,
        max_tokens=12,
        serve_arguments=["--threads", "1", "--ledger", str(ledger)],
    )
    assert (report.completed, report.output_tokens, dict(report.errors)) == (10, 120, {})
    assert report.first_token and report.inter_token and report.whole_answer
    assert 0 < report.first_token.p50 <= report.first_token.p90 <= report.first_token.p99
    assert report.first_token.p99 <= report.whole_answer.p99 <= report.wall_seconds
    assert report.output_tokens_per_second == pytest.approx(12 * report.requests_per_second)
    assert json.loads(json.dumps(report.as_dict()))["inter_token"]["p50"] == report.inter_token.p50
    assert "10 requests of 40 tokens from 4 clients" in report.lines()[0]
    with Ledger(ledger) as opened:
        rows = opened.usage()
    # The eleventh warms up. No prompt finds another one's beginning.
    assert {(row.prompt_tokens, row.completion_tokens, row.cached_prompt_tokens) for row in rows} == {(40, 12, 0)}
    assert len(rows) == 11
    assert servers() == []


def test_refused_requests_are_counted_and_named(tiny_model: Path) -> None:
    arguments = ["--threads", "1", "--max-length", "30"]
    report = drive_server(
        str(tiny_model), clients=2, requests=3, prompt_tokens=40, max_tokens=4, serve_arguments=arguments
    )
    ((error, count),) = report.errors.items()
    assert (report.completed, count) == (0, 3)
    assert error.startswith("status 400: The maximum context length is 30 tokens")
    assert (report.first_token, report.inter_token, report.output_tokens) == (None, None, 0)
    assert any("3 times: status 400" in line for line in report.lines())


def test_a_server_that_does_not_start_says_why(tiny_model: Path, tmp_path: Path, servers: Servers) -> None:
    arguments = ["--adapter", f"tuned={tmp_path / 'nothing'}"]
    with pytest.raises(LandraceError, match=r"did not start: error: .*nothing"):
        drive_server(str(tiny_model), clients=1, requests=1, prompt_tokens=4, max_tokens=4, serve_arguments=arguments)
    with pytest.raises(StoreError):
        drive_server("no-such-model", clients=1, requests=1, prompt_tokens=4, max_tokens=4)
    with pytest.raises(OptionError, match="clients is 0"):
        drive_server(str(tiny_model), clients=0, requests=1, prompt_tokens=4, max_tokens=4)
    assert servers() == []


def test_a_server_that_dies_is_not_reported_as_slow(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, servers: Servers
) -> None:
    real = serve_load._drive

    async def killed(url: str, bodies: Any, clients: int) -> Any:
        for server in servers():
            server.kill()
            server.wait()
        return await real(url, bodies, clients)

    monkeypatch.setattr(serve_load, "_drive", killed)
    with pytest.raises(LandraceError, match="ended before its time"):
        drive_server(str(tiny_model), clients=2, requests=2, prompt_tokens=4, max_tokens=4)


def test_the_server_ends_with_an_interrupted_run(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, servers: Servers
) -> None:
    seen: list[psutil.Process] = []

    async def interrupted(url: str, bodies: Any, clients: int) -> Any:
        seen.extend(servers())
        raise RuntimeError("enough")

    monkeypatch.setattr(serve_load, "_drive", interrupted)
    with pytest.raises(RuntimeError, match="enough"):
        drive_server(str(tiny_model), clients=1, requests=1, prompt_tokens=4, max_tokens=4)
    assert len(seen) == 1 and not seen[0].is_running()


def ask_a_server_that(
    answers: Callable[[asyncio.StreamWriter], Awaitable[None]], clients: int = 1
) -> list[serve_load._Answer | str]:
    """The outcomes of two requests, both answered by `answers`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        await answers(writer)
        writer.close()

    async def run() -> list[serve_load._Answer | str]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await serve_load._drive(f"http://127.0.0.1:{port}", [b"{}", b"{}"], clients)

    return asyncio.run(run())


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(text: str, **more: Any) -> bytes:
    return f"data: {json.dumps({'choices': [{'text': text}], **more}, ensure_ascii=False)}\n\n".encode()


def test_events_that_are_cut_anywhere_are_put_together() -> None:
    stream = (
        event("a\n\n钥匙") + event("") + event("c") + event("", usage={"completion_tokens": 7}) + b"data: [DONE]\n\n"
    )

    async def answers(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for start in range(0, len(stream), 7):
            writer.write(chunk(stream[start : start + 7]))
            await writer.drain()
        writer.write(chunk(b""))

    for answer in ask_a_server_that(answers, clients=2):
        assert isinstance(answer, serve_load._Answer)
        assert (len(answer.pieces), answer.output_tokens) == (2, 7)
        assert answer.sent < answer.pieces[0] <= answer.pieces[1] <= answer.ended


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (HEAD + chunk(event("a")) + chunk(b""), "the stream ended before its answer was complete"),
        (HEAD + chunk(event("a")), "the connection failed: IncompleteReadError"),
        (b"", "the connection failed: IncompleteReadError"),
        (HEAD + chunk(b'data: {"error": {"message": "The server is stopping."}}\n\n'), "The server is stopping."),
        (b'HTTP/1.1 429 No\r\nA: b\r\n\r\n{"error": {"message": "Too many."}}', "status 429: Too many."),
        (b"HTTP/1.1 502 No\r\nA: b\r\n\r\nBad gateway", "status 502: Bad gateway"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "the answer is not a stream"),
    ],
)
def test_every_way_to_fail_is_an_error_of_its_own(sent: bytes, error: str) -> None:
    async def answers(writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()

    assert ask_a_server_that(answers) == [error, error]


def test_percentiles_are_nearest_ranks() -> None:
    assert Percentiles.of([float(n) for n in range(100, 0, -1)]) == Percentiles(50.0, 90.0, 99.0)
    assert Percentiles.of([3.0, 1.0, 2.0]) == Percentiles(2.0, 3.0, 3.0)
    assert Percentiles.of([]) is None
