"""Drives the real server with many streaming clients, and says what they waited for."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from landrace.bench.workload import random_prompt
from landrace.checkpoints import open_checkpoint
from landrace.checkpoints.store import ModelStore, default_home
from landrace.errors import LandraceError, OptionError

_STOP_SECONDS = 30.0
"""How long a server that was told to stop may take before it is killed."""
_LAST_LINES = 20
"""Of the server's own words, kept for when it fails."""
_ADDRESS = re.compile(r" at (http://\S+)/v1")


@dataclass(frozen=True)
class Percentiles:
    """Seconds that 50, 90 and 99 of a hundred do not exceed."""

    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Percentiles | None:
        """By nearest rank: each figure is one that was measured. None of nothing."""
        if not seconds:
            return None
        ordered = sorted(seconds)
        return cls(*(ordered[math.ceil(percent / 100 * len(ordered)) - 1] for percent in (50, 90, 99)))


@dataclass(frozen=True)
class ServeReport:
    """What the clients saw, in seconds and tokens. Requests that failed count in `errors` and nowhere else."""

    model: str
    clients: int
    requests: int
    prompt_tokens: int
    """Of each request."""
    max_tokens: int
    """Of each request; every answer that is complete has as many."""
    completed: int
    errors: Mapping[str, int]
    """What went wrong, and how often."""
    output_tokens: int
    """Of all complete answers."""
    wall_seconds: float
    """From the first request to the end of the last answer."""
    first_token: Percentiles | None
    """From sending a request to the first piece of its text."""
    inter_token: Percentiles | None
    """Between two pieces of text of one answer. A piece is one token, or several that make one character."""
    whole_answer: Percentiles | None

    @property
    def output_tokens_per_second(self) -> float:
        return self.output_tokens / self.wall_seconds

    @property
    def requests_per_second(self) -> float:
        return self.completed / self.wall_seconds

    def as_dict(self) -> dict[str, Any]:
        rates = {
            "output_tokens_per_second": self.output_tokens_per_second,
            "requests_per_second": self.requests_per_second,
        }
        return {**asdict(self), **rates}

    def lines(self) -> list[str]:
        """The report for people."""
        found = [
            f"{self.requests} requests of {self.prompt_tokens} tokens from {self.clients} clients,"
            f" {self.max_tokens} tokens each back: {self.wall_seconds:.1f} s",
            f"throughput            {self.output_tokens_per_second:.1f} output tokens/s,"
            f" {self.requests_per_second:.2f} requests/s",
            f"{'':21} {'p50':>9} {'p90':>9} {'p99':>9}",
            _line("time to first token", self.first_token),
            _line("inter-token latency", self.inter_token),
            _line("whole answer", self.whole_answer),
            f"errors                {sum(self.errors.values())}",
        ]
        return found + [f"  {count} times: {error}" for error, count in self.errors.items()]


def _line(name: str, seconds: Percentiles | None) -> str:
    if seconds is None:
        return f"{name:21} {'-':>9} {'-':>9} {'-':>9}"
    return f"{name:21} " + " ".join(f"{value * 1000:6.1f} ms" for value in (seconds.p50, seconds.p90, seconds.p99))


@dataclass
class _Answer:
    """One request as its client saw it; times of `time.perf_counter`."""

    sent: float
    pieces: list[float] = field(default_factory=list)
    """When each piece of text came."""
    ended: float = 0.0
    output_tokens: int = 0


class _FailedError(Exception):
    """One request was not answered; the text says why."""


def drive_server(
    model: str,
    *,
    clients: int,
    requests: int,
    prompt_tokens: int,
    max_tokens: int,
    serve_arguments: Sequence[str] = (),
) -> ServeReport:
    """Starts `landrace serve` on a free port, sends `requests` prompts from `clients` clients at once, and stops it.

    Prompts are random tokens, the same in every run, and share no beginning; answers go on to `max_tokens`.
    `serve_arguments` are added to the server's command line. Clients run in this process. OptionError for a number
    below 1; LandraceError with the server's last words when it does not start or ends before its time.
    """
    for name, value in (("clients", clients), ("requests", requests), ("prompt_tokens", prompt_tokens)):
        if value < 1:
            raise OptionError(f"{name} is {value}, but at least 1 is needed.")
    if max_tokens < 1:
        raise OptionError(f"max_tokens is {max_tokens}, but at least 1 is needed.")
    vocab_size = open_checkpoint(ModelStore(default_home()).resolve(model)).spec.vocab_size
    bodies = [_body(model, random_prompt(vocab_size, prompt_tokens, "serve", n), max_tokens) for n in range(requests)]
    warm_up = _body(model, random_prompt(vocab_size, prompt_tokens, "warm-up"), max_tokens)
    with running_server(model, serve_arguments) as server:
        asyncio.run(_drive(server.url, [warm_up], 1))
        begun = time.perf_counter()
        outcomes = asyncio.run(_drive(server.url, bodies, clients))
        wall = time.perf_counter() - begun
        server.check()
    answers = [outcome for outcome in outcomes if isinstance(outcome, _Answer)]
    return ServeReport(
        model=model,
        clients=clients,
        requests=requests,
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        completed=len(answers),
        errors=dict(Counter(outcome for outcome in outcomes if isinstance(outcome, str))),
        output_tokens=sum(answer.output_tokens for answer in answers),
        wall_seconds=wall,
        first_token=Percentiles.of([answer.pieces[0] - answer.sent for answer in answers if answer.pieces]),
        inter_token=Percentiles.of(
            [later - earlier for answer in answers for earlier, later in pairwise(answer.pieces)]
        ),
        whole_answer=Percentiles.of([answer.ended - answer.sent for answer in answers]),
    )


def _body(model: str, prompt: Sequence[int], max_tokens: int) -> bytes:
    fields = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0.0, "ignore_eos": True}
    return json.dumps({**fields, "stream": True, "stream_options": {"include_usage": True}}).encode()


class _Server:
    """A server process, and what it writes to stderr."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "COLUMNS": "10000"},  # so that its words are not folded
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._said: deque[str] = deque(maxlen=_LAST_LINES)
        self._address: str | None = None
        self._ready = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line)
            found = _ADDRESS.search(line)
            if found:
                self._address = found[1]
                self._ready.set()
        self._ready.set()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        """Waits until the server answers. LandraceError when it ends instead."""
        self._ready.wait()
        if self._address is None:
            self._process.wait()
            raise LandraceError(f"The server did not start: {''.join(self._said).strip()}")
        return self._address

    def check(self) -> None:
        """LandraceError when the server is not there any more."""
        if self._process.poll() is not None:
            self._listener.join()
            raise LandraceError(f"The server ended before its time: {''.join(self._said).strip()}")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


@contextmanager
def running_server(model: str, arguments: Sequence[str]) -> Iterator[_Server]:
    """`landrace serve` on a free port, which ends with the block."""
    command = [sys.executable, "-m", "landrace", "serve", model, "--port", "0", "--drain-seconds", "1", *arguments]
    server = _Server(command)
    try:
        yield server
    finally:
        server.stop()


async def _drive(url: str, bodies: Sequence[bytes], clients: int) -> list[_Answer | str]:
    """Each client sends the next body as soon as its last one was answered. An answer or an error for each body."""
    waiting = iter(enumerate(bodies))
    outcomes: list[_Answer | str] = [""] * len(bodies)

    async def client() -> None:
        for index, body in waiting:
            try:
                outcomes[index] = await _ask(url, body)
            except _FailedError as error:
                outcomes[index] = str(error)
            except (OSError, EOFError) as error:
                outcomes[index] = f"the connection failed: {type(error).__name__}"

    async with asyncio.TaskGroup() as group:
        for _ in range(min(clients, len(bodies))):
            group.create_task(client())
    return outcomes


async def _ask(url: str, body: bytes) -> _Answer:
    """One request on a connection of its own."""
    address = urlsplit(url)
    answer = _Answer(sent=time.perf_counter())
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        status = int((await reader.readuntil(b"\r\n")).split()[1])
        headers = (await reader.readuntil(b"\r\n\r\n")).lower()
        if status != 200:
            raise _FailedError(f"status {status}: {_message(await reader.read())}")
        if b"transfer-encoding: chunked" not in headers:
            raise _FailedError("the answer is not a stream")
        async for event in _events(reader):
            _take(answer, event)
    finally:
        writer.close()
    answer.ended = time.perf_counter()
    return answer


def _take(answer: _Answer, event: Mapping[str, Any]) -> None:
    if "error" in event:
        raise _FailedError(str(event["error"].get("message")))
    if any(choice["text"] for choice in event["choices"]):
        answer.pieces.append(time.perf_counter())
    if event.get("usage"):
        answer.output_tokens = event["usage"]["completion_tokens"]


def _message(body: bytes) -> str:
    """What an error body says."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")[:200]


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event, up to the mark that says the stream is complete."""
    left = b""
    async for data in _chunks(reader):
        *whole, left = (left + data).split(b"\n\n")
        for event in whole:
            text = event.removeprefix(b"data: ")
            if text == b"[DONE]":
                return
            yield json.loads(text)
    raise _FailedError("the stream ended before its answer was complete")


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The body of a response in HTTP/1.1's chunked encoding (RFC 9112, section 7.1)."""
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]
