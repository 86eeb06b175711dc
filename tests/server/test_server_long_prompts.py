"""Prompts of megabytes, of every kind: refused with a reason, while other streams and /health go on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from matrix import mostly_long
from patience import SECONDS, wait_until

from landrace.checkpoints import write_checkpoint
from landrace.models.declared import shapes_of
from landrace.models.families import read_config

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
SIZE = 3_000_000
LONGEST = 0.5
"""Seconds that the server may keep its event loop from a turn (`turns.py`), and an engine work on what is refused."""
MAX_GROWTH = 150 * 2**20
N_LONG = 12
"""Long prompts at once; the server lets 16 wait."""
SIZES = ("--max-length", "131072", "--cache-tokens", "131072")
LETTERS = {
    "letter": "a",
    "spaces": " ",
    "digits": "7",
    "newlines": "\n",
    "emoji": "\U0001f600",
    "ideographs": "\u597d\u4e16\u754c",
    "prose": "To be, or not to be: that is the question. ",
    "marks": "a\u0301\u0323",
    "mix": "a1 \u597d\n\U0001f600!\t'",
    "control": "<|im_end|>",
}


def long_text(kind: str) -> str:
    """About `SIZE` bytes as a body writes them."""
    unit = LETTERS[kind]
    return unit * (SIZE // (len(json.dumps(unit)) - 2))


def encoded(body: Any) -> bytes:
    return json.dumps(body).encode()


def post(served: Any, path: str, content: bytes) -> httpx.Response:
    """Sends a body that was written before, so that writing it does not hold up those who watch in this process."""
    headers = {"Content-Type": "application/json"}
    return httpx.post(f"{served.url}{path}", content=content, headers=headers, timeout=SECONDS)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


class Watch:
    """Four streams that start again when they end, and /health: all go on, and `longest` is what the server kept its
    event loop from a turn meanwhile."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._over = threading.Event()
        self._failed: list[Exception] = []
        self._replies = {"health": 0, **{f"stream {i}": 0 for i in range(4)}}
        self._threads = [threading.Thread(target=self._run, args=(name,)) for name in self._replies]
        self.longest = 0.0

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        self._all_go_on()
        self._begun = self._server.pulse.stat().st_size
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._all_go_on()
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()
        assert not self._failed, self._failed
        beats = self._server.pulse.read_text()[self._begun :].splitlines()
        self.longest = max(map(float, beats))

    def _all_go_on(self) -> None:
        """Waits until each of them has had one more reply."""
        before = dict(self._replies)
        wait_until(lambda: self._failed or all(self._replies[name] > before[name] for name in before))

    def _run(self, name: str) -> None:
        try:
            with httpx.Client(timeout=SECONDS) as http:
                while not self._over.is_set():
                    for _ in self._health(http) if name == "health" else self._stream(http):
                        self._replies[name] += 1
        except (AssertionError, httpx.HTTPError) as error:
            self._failed.append(error)

    def _health(self, http: httpx.Client) -> Iterator[None]:
        assert http.get(f"{self._server.url}/health").status_code == 200
        yield
        self._over.wait(0.01)

    def _stream(self, http: httpx.Client) -> Iterator[None]:
        body = {"model": self.model, "prompt": [5, 6, 7], "max_tokens": 400, "stream": True, "ignore_eos": True}
        with http.stream("POST", f"{self._server.url}{PLAIN}", json=body) as reply:
            assert reply.status_code == 200
            for _ in reply.iter_lines():
                yield
                if self._over.is_set():
                    return

    @property
    def model(self) -> str:
        return str(self._server.arguments[0])


def memory(server: Any) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)


def engine_seconds(server: Any) -> float:
    """Processor time that the engine has used."""
    assert server.url, "it is open"
    times = [psutil.Process(pid).cpu_times() for pid in server.engine_pids()]
    return float(sum(time.user + time.system for time in times))


@pytest.fixture(scope="module")
def wide_model(tiny_model: Path, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with the vocabulary of a real one, whose context takes megabytes of text."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    source = shared / "data" / "tokenizers" / "qwen2.5"
    config = {**json.loads((tiny_model / "config.json").read_text(encoding="utf-8")), "vocab_size": 151_936}
    family = read_config(config)
    generator = torch.Generator().manual_seed(0)
    tensors = [(name, torch.randn(shape, generator=generator) * 0.3) for name, shape in shapes_of(family.spec).items()]
    write_checkpoint(folder, config, family.sources, tensors, source.iterdir())
    return folder


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, start_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return start_server(str(tiny_model), *SIZES, pulse=tmp_path_factory.mktemp("tiny") / "pulse")


@pytest.fixture(scope="module")
def wide(wide_model: Path, start_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return start_server(str(wide_model), *SIZES, pulse=tmp_path_factory.mktemp("wide") / "pulse")


def checked(reply: httpx.Response, param: str, *reasons: str) -> None:
    assert reply.status_code == 400, reply.text[:300]
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert any(reason in error["message"] for reason in reasons), error
    assert (error["code"] == "context_length_exceeded") == ("maximum context length is" in error["message"]), error
    assert len(error["message"]) < 600


@pytest.mark.parametrize("kind", mostly_long(LETTERS, ("control", "ideographs")))
@pytest.mark.parametrize("model", mostly_long(("wide", "tiny"), ("wide",)))
def test_a_long_prompt_stops_nobody(request: pytest.FixtureRequest, model: str, kind: str) -> None:
    served = request.getfixturevalue(model)
    text = long_text(kind)
    body = {"model": served.arguments[0]}
    reasons = ["maximum context length is 131072 tokens", "without a place to cut it"]
    calls = [
        (PLAIN, encoded({**body, "prompt": text}), "prompt"),
        (PLAIN, encoded({**body, "prompt": ["short", text], "stream": True}), "prompt"),
        (CHAT, encoded({**body, "messages": [user(text)]}), "messages"),
    ]
    worked = engine_seconds(served)
    checked(post(served, *calls[0][:2]), "prompt", *reasons)
    assert engine_seconds(served) - worked < LONGEST
    before = memory(served)
    with Watch(served) as watch:
        for path, content, param in calls:
            checked(post(served, path, content), param, *reasons)
    report(served, kind, watch, before)


def report(served: Any, kind: str, watch: Watch, before: int) -> None:
    print(f"{kind}: {watch.longest * 1000:.0f} ms, grown by {(memory(served) - before) / 2**20:.0f} MB")
    assert watch.longest < LONGEST
    wait_until(lambda: memory(served) - before < MAX_GROWTH)


BODIES: dict[str, tuple[str, dict[str, Any], tuple[int, str | None]]] = {
    "messages": (CHAT, {"messages": [user("hi"), {"role": "assistant", "content": "ho"}] * 50_000}, (400, "messages")),
    "parts": (CHAT, {"messages": [user([{"type": "text", "text": "hi "}] * 100_000)]}, (400, "messages")),
    "not messages": (CHAT, {"messages": [5] * 400_000}, (400, "messages[0]")),
    "values": (CHAT, {"messages": [{}] * 1_000_000}, (413, None)),
    "ids": (PLAIN, {"prompt": [7] * 500_000}, (400, "prompt")),
    "more ids": (PLAIN, {"prompt": [7] * 2_000_000}, (413, None)),
    "texts": (PLAIN, {"prompt": ["hi"] * 400_000}, (400, "n")),
    "lists of ids": (PLAIN, {"prompt": [[7]] * 200_000}, (400, "n")),
    "not ids": (PLAIN, {"prompt": [7] * 300_000 + ["x"]}, (400, "prompt")),
    "stop": (PLAIN, {"prompt": "x", "stop": ["x"] * 400_000}, (400, "stop")),
    "unknown": (PLAIN, {"prompt": "x", "frobnicate": ["x"] * 400_000}, (400, "frobnicate")),
}


@pytest.mark.parametrize("kind", mostly_long(BODIES, ("messages",)))
def test_a_body_of_many_values_stops_nobody(tiny: Any, kind: str) -> None:
    path, fields, (status, param) = BODIES[kind]
    content = encoded({"model": tiny.arguments[0], **fields})
    # What a first body took stays with the process, free for others: another must not take as much again.
    assert post(tiny, path, content).status_code == status
    before = memory(tiny)
    with Watch(tiny) as watch:
        reply = post(tiny, path, content)
    assert reply.status_code == status, reply.text[:300]
    assert reply.json()["error"]["param"] == param
    report(tiny, kind, watch, before)


def test_short_prompts_do_not_wait_for_long_ones(wide: Any) -> None:
    """Long ones have one thread, which takes them one after another; short ones that come later pass them."""
    body = {"model": wide.arguments[0], "max_tokens": 1}
    long, short = (encoded({**body, "prompt": text}) for text in (long_text("prose"), "short"))
    refused: list[int] = []
    threads = [
        threading.Thread(target=lambda: refused.append(post(wide, PLAIN, long).status_code)) for _ in range(N_LONG)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: refused)
    for _ in range(5):
        assert post(wide, PLAIN, short).status_code == 200
    passed = N_LONG - len(refused)
    for thread in threads:
        thread.join()
    assert refused == [400] * N_LONG
    assert passed > 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": ' * 70_000 + b"1" + b"}" * 70_000, "nested too deeply"),
        (b'{"a": "' + b"x" * 70_000, "Unterminated string"),
        (b'{"a": "\xff' + b"x" * 70_000 + b'"}', "not UTF-8"),
        (b'{"a": ' + b"9" * 70_000 + b"}", "digits"),
        (b"[" + b"1," * 70_000 + b"1]", "must be a JSON object"),
    ],
)
def test_a_long_body_that_is_not_json_is_refused_as_a_short_one(tiny: Any, content: bytes, reason: str) -> None:
    reply = post(tiny, CHAT, content)
    assert reply.status_code == 400
    assert reason in reply.json()["error"]["message"]
