"""Slow, idle, too many and too large: what one client cannot do to a server."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import SECONDS, wait_until

PLAIN = "/v1/completions"
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def hasty(start_server: Any, tiny_model: Path) -> Any:
    """A server that waits for nobody long, and takes 80 connections."""
    seconds = ("--head-seconds", "1", "--body-seconds", "1", "--idle-seconds", "1", "--send-seconds", "1")
    return start_server(str(tiny_model), *seconds, "--max-connections", "80", "--cache-tokens", "131072")


@pytest.fixture
def connect(hasty: Any) -> Iterator[Any]:
    """Opens connections, which end with the test."""
    host, port = hasty.url.removeprefix("http://").split(":")
    opened: list[socket.socket] = []

    def one(sent: bytes = b"", buffer: int | None = None) -> socket.socket:
        opened.append(socket.socket())
        if buffer is not None:
            opened[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        opened[-1].settimeout(SECONDS)
        opened[-1].connect((host, int(port)))
        opened[-1].sendall(sent)
        return opened[-1]

    yield one
    for connection in opened:
        connection.close()
    wait_until(lambda: hasty.get("/health").status_code == 200)


def rest(connection: socket.socket) -> bytes:
    """What the server says until it ends the connection."""
    seen = b""
    try:
        while part := connection.recv(65536):
            seen += part
    except ConnectionResetError:
        pass
    return seen


def refusal(said: bytes) -> tuple[int, str]:
    """The status and the code of a reply."""
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def unfinished(server: Any) -> int:
    return int(server.get("/health").json()["unfinished_requests"])


def test_60_slow_heads_end_and_others_are_served(hasty: Any, connect: Any) -> None:
    slow = [connect(HEAD + b"X-Slow: ") for _ in range(60)]
    assert hasty.get("/health").status_code == 200
    assert {refusal(rest(connection)) for connection in slow} == {(408, "request_timeout")}


def test_a_trickle_is_no_excuse(connect: Any) -> None:
    """A byte now and then makes no deadline later: not of headers, a body, or line ends between requests."""
    for begun in (HEAD + b"X: ", HEAD + b"Content-Length: 1000\r\n\r\n", HEALTH, b"\r\n"):
        connection = connect(begun)
        until = time.monotonic() + SECONDS
        with pytest.raises(OSError):
            while time.monotonic() < until:
                connection.sendall(b"\r\n" if begun in (HEALTH, b"\r\n") else b"a")
                time.sleep(0.05)


def test_60_slow_bodies_end_and_others_are_served(hasty: Any, connect: Any) -> None:
    slow = [connect(HEAD + b"Content-Length: 100\r\n\r\n{") for _ in range(60)]
    assert hasty.get("/health").status_code == 200
    replies = [rest(connection) for connection in slow]
    assert {refusal(reply) for reply in replies} == {(408, "request_timeout")}
    assert all(b"x-request-id" in reply for reply in replies)


def test_a_body_that_keeps_the_rate_may_take_its_time(hasty: Any, connect: Any, tiny_model: Path) -> None:
    body = json.dumps({"model": str(tiny_model), "prompt": "a", "max_tokens": 1, "pad": None})
    padded = (body[:-1] + " " * (3 * 2**19) + "}").encode()
    connection = connect(HEAD + b"Content-Length: %d\r\n\r\n" % len(padded))
    for start in range(0, len(padded), 2**18):  # 1.75 s in all, for which 1 + 3 are allowed
        connection.sendall(padded[start : start + 2**18])
        time.sleep(0.25)
    assert refusal(connection.recv(65536)) == (400, "unknown_parameter")  # the padding's name: it was read


def test_the_rest_of_a_body_that_was_refused_is_not_awaited(connect: Any) -> None:
    connection = connect(HEAD.replace(b"completions", b"nothing") + b"Content-Length: 100000\r\n\r\n{")
    said = rest(connection)
    assert refusal(said) == (404, "unknown_url")


def test_idle_connections_end(connect: Any) -> None:
    silent = [connect() for _ in range(30)]
    kept = [connect(HEALTH) for _ in range(30)]
    assert {rest(connection) for connection in silent} == {b""}
    assert all(rest(connection).startswith(b"HTTP/1.1 200") for connection in kept)


def test_too_many_connections_are_told(hasty: Any, connect: Any) -> None:
    """200 that say nothing: 80 are heard out, 80 are told, and the others are not heard at all."""
    silent = [connect() for _ in range(200)]
    said = [rest(connection) for connection in silent]
    told = [reply for reply in said if reply]
    assert len(told) >= 80
    assert {refusal(reply) for reply in told} == {(503, "too_many_connections")}
    assert all(b"retry-after: 1\r\n" in reply for reply in told)


def test_an_idle_connection_makes_room(hasty: Any, connect: Any) -> None:
    kept = [connect(HEALTH) for _ in range(80)]
    for connection in kept:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert connect(HEALTH).recv(65536).startswith(b"HTTP/1.1 200")


def test_who_takes_nothing_of_a_stream_frees_its_place(hasty: Any, connect: Any, tiny_model: Path) -> None:
    call = {"model": str(tiny_model), "prompt": "a", "max_tokens": 100_000, "ignore_eos": True, "stream": True}
    body = json.dumps({**call, "logprobs": 20}).encode()  # megabytes, which no buffer of the network takes
    connection = connect(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body, buffer=4096)
    wait_until(lambda: unfinished(hasty) == 1)
    wait_until(lambda: unfinished(hasty) == 0)
    assert b"[DONE]" not in rest(connection)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", (431, "headers_too_large")),
        (b"GET /" + b"a" * 400_000, (431, "headers_too_large")),
        (HEAD + b"X: " + b"a" * 70_000 + b"\r\n\r\n", (431, "headers_too_large")),
        (HEAD + b"X: " + b"a" * 400_000, (431, "headers_too_large")),
        (HEAD + b"X: a\r\n" * 101 + b"\r\n", (431, "headers_too_large")),
        (b"hello\r\n\r\n", (400, "invalid_http")),
        (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", (400, "invalid_http")),
    ],
)
def test_what_is_too_large_or_no_http_is_refused(connect: Any, sent: bytes, expected: tuple[int, str]) -> None:
    assert refusal(rest(connect(sent))) == expected


def test_trailers_are_bounded(hasty: Any, connect: Any) -> None:
    connection = connect(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n")
    with pytest.raises(OSError):
        for _ in range(100):
            connection.sendall(b"X: " + b"a" * 60_000)
            time.sleep(0.02)


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_failure(hasty: Any, connect: Any) -> None:
    connect(HEAD + b"Content-Length: 100\r\n\r\n{").close()
    assert hasty.get("/health").status_code == 200
    assert not [line for line in hasty.lines if "Traceback" in line]
