"""Prompts of megabytes, of every kind: refused with a reason, while other streams and /health go on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch

from landrace.checkpoints import write_checkpoint
from landrace.models.declared import shapes_of
from landrace.models.families import read_config

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
SIZE = 3_000_000
LONGEST_GAP = 1.0
"""Seconds that no stream and no /health may pause, here; a tenth of it on a machine that does nothing else."""
MAX_GROWTH = 150 * 2**20
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
    return httpx.post(f"{served.url}{path}", content=content, headers=headers, timeout=60)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


class Watch:
    """Four streams that start again when they end, and /health; `gap` is the longest wait for any of them."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._over = threading.Event()
        self._failed: list[Exception] = []
        self.gaps: dict[str, float] = {}
        names = ["health", *(f"stream {i}" for i in range(4))]
        self._threads = [threading.Thread(target=self._run, args=(name,)) for name in names]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        while len(self.gaps) < len(self._threads) and not self._failed:
            time.sleep(0.01)
        self.gaps = dict.fromkeys(self.gaps, 0.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        assert not self._failed, self._failed

    def _run(self, name: str) -> None:
        try:
            with httpx.Client(timeout=60) as http:
                while not self._over.is_set():
                    times = [time.perf_counter(), *(self._health(http) if name == "health" else self._stream(http))]
                    longest = max(after - before for before, after in pairwise(times))
                    self.gaps[name] = max(self.gaps.get(name, 0.0), longest)
        except (AssertionError, httpx.HTTPError) as error:
            self._failed.append(error)

    def _health(self, http: httpx.Client) -> Iterator[float]:
        assert http.get(f"{self._server.url}/health").status_code == 200
        yield time.perf_counter()
        time.sleep(0.01)

    def _stream(self, http: httpx.Client) -> Iterator[float]:
        body = {"model": self.model, "prompt": [5, 6, 7], "max_tokens": 400, "stream": True, "ignore_eos": True}
        with http.stream("POST", f"{self._server.url}{PLAIN}", json=body) as reply:
            assert reply.status_code == 200
            for _ in reply.iter_lines():
                yield time.perf_counter()
                if self._over.is_set():
                    return

    @property
    def model(self) -> str:
        return str(self._server.arguments[0])


def memory(server: Any) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)


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
def tiny(tiny_model: Path, start_server: Any) -> Any:
    return start_server(str(tiny_model), "--max-length", "131072", "--cache-tokens", "131072")


@pytest.fixture(scope="module")
def wide(wide_model: Path, start_server: Any) -> Any:
    return start_server(str(wide_model), "--max-length", "131072", "--cache-tokens", "131072")


def checked(reply: httpx.Response, param: str, *reasons: str) -> None:
    assert reply.status_code == 400, reply.text[:300]
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert any(reason in error["message"] for reason in reasons), error
    assert (error["code"] == "context_length_exceeded") == ("maximum context length is" in error["message"]), error
    assert len(error["message"]) < 600


@pytest.mark.parametrize("kind", LETTERS)
@pytest.mark.parametrize("model", ["tiny", "wide"])
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
    checked(post(served, *calls[0][:2]), "prompt", *reasons)
    before = memory(served)
    with Watch(served) as watch:
        for path, content, param in calls:
            checked(post(served, path, content), param, *reasons)
    report(served, kind, watch, before)


def report(served: Any, kind: str, watch: Watch, before: int) -> None:
    grown = memory(served) - before
    stream, health = max(watch.gaps.values()) * 1000, watch.gaps["health"] * 1000
    print(f"{kind}: {stream:.0f} ms, /health {health:.0f} ms, grown by {grown / 2**20:.0f} MB")
    assert max(watch.gaps.values()) < LONGEST_GAP, watch.gaps
    assert grown < MAX_GROWTH


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


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_of_many_values_stops_nobody(tiny: Any, kind: str) -> None:
    path, fields, (status, param) = BODIES[kind]
    content = encoded({"model": tiny.arguments[0], **fields})
    before = memory(tiny)
    with Watch(tiny) as watch:
        reply = post(tiny, path, content)
    assert reply.status_code == status, reply.text[:300]
    assert reply.json()["error"]["param"] == param
    report(tiny, kind, watch, before)


def test_short_prompts_do_not_wait_for_long_ones(tiny: Any) -> None:
    body = {"model": tiny.arguments[0], "max_tokens": 1}
    text = "To be, or not to be. " * 150_000
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(tiny.post(PLAIN, {**body, "prompt": text}).status_code))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    started = time.perf_counter()
    for _ in range(5):
        assert tiny.post(PLAIN, {**body, "prompt": "short"}).status_code == 200
    took = time.perf_counter() - started
    for thread in threads:
        thread.join()
    assert set(statuses) == {400}
    assert took < 5 * LONGEST_GAP


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
