"""Engines of a server are killed and stopped under load: what its clients, its health and its ledger see of it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from patience import SECONDS, wait_until

from landrace.ledger import Ledger

ENDLESS = {"prompt": "b", "max_tokens": 90_000, "ignore_eos": True}
ROOM = ("--cache-tokens", "131072")
KILLS = 2


def greedy(server: Any, model: str, prompt: str) -> httpx.Response:
    return server.post(
        "/v1/completions",
        {"model": model, "prompt": prompt, "max_tokens": 40, "temperature": 0, "ignore_eos": True},
    )


def text(reply: httpx.Response) -> str:
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["text"])


def streamed(server: Any, model: str, prompt: str) -> str | dict[str, Any]:
    """The text of a stream, or the error that it ended with."""
    body = {"model": model, "prompt": prompt, "max_tokens": 40, "temperature": 0, "ignore_eos": True, "stream": True}
    said = ""
    with (
        httpx.Client(timeout=SECONDS) as client,
        client.stream("POST", f"{server.url}/v1/completions", json=body) as reply,
    ):
        if reply.status_code != 200:
            return dict(json.loads(reply.read())["error"])
        for line in reply.iter_lines():
            if line == "data: [DONE]":
                return said
            if line:
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    return dict(event["error"])
                said += event["choices"][0]["text"]
    raise AssertionError("the stream broke off")


def kill(server: Any, number: signal.Signals = signal.SIGKILL) -> int:
    """The engine's process, which gets the signal."""
    (pid,) = server.engine_pids()
    os.kill(pid, number)
    return int(pid)


def test_kills_under_load(start_server: Any, tiny_model: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    """Every call ends in its answer or in an error that says to try again; the HTTP side answers all the time."""
    server = start_server(str(tiny_model), "--adapter", f"tuned={tiny_adapter}", *ROOM, ledger=tmp_path / "usage.db")
    prompts = [(name, f"prompt {n}") for name in (str(tiny_model), "tuned") for n in range(4)]
    expected = {prompt: text(greedy(server, *prompt)) for prompt in prompts}
    counts: Counter[str] = Counter()
    ended = threading.Event()

    def client(seed: int) -> None:
        rng = Random(seed)
        while not ended.is_set():
            prompt = rng.choice(prompts)
            if rng.random() < 0.5:
                reply = greedy(server, *prompt)
                came: str | dict[str, Any] = text(reply) if reply.status_code == 200 else reply.json()["error"]
                if reply.status_code != 200:
                    assert reply.status_code == 503 and int(reply.headers["retry-after"]) >= 1
            else:
                came = streamed(server, *prompt)
            if isinstance(came, dict):
                assert came["code"] == "engine_restarting", came
                counts["error"] += 1
                time.sleep(0.2)
            else:
                assert came == expected[prompt]
                counts["answer"] += 1

    def look() -> None:
        while not ended.is_set():
            assert server.get("/health").status_code == 200
            time.sleep(0.05)

    rng = Random(7)
    with ThreadPoolExecutor(9) as pool:
        running = [pool.submit(client, seed) for seed in range(8)] + [pool.submit(look)]
        try:
            for kills in range(1, KILLS + 1):
                before = counts["answer"]
                wait_until(lambda before=before: counts["answer"] >= before + 10)  # type: ignore[misc]
                time.sleep(rng.random())
                kill(server)
                wait_until(lambda kills=kills: server.log.count("is up again") == kills)  # type: ignore[misc]
        finally:
            ended.set()
        for one in running:
            one.result(SECONDS)
    assert counts["error"] > 0
    assert {prompt: text(greedy(server, *prompt)) for prompt in prompts} == expected
    health = server.get("/health").json()
    assert (health["status"], health["engines"], health["unfinished_requests"]) == ("ok", {}, 0)
    assert server.stop() == 0
    with Ledger(server.ledger) as ledger:
        assert [run.status for run in ledger.runs(kind="serve")] == ["finished"]
        reasons = Counter(row.finish_reason for row in ledger.usage())
    assert reasons["length"] == counts["answer"] + 2 * len(prompts)
    assert set(reasons) <= {"length", "error"}


def test_a_stopped_engine_is_not_healthy_and_is_replaced(start_server: Any, tiny_model: Path) -> None:
    server = start_server(str(tiny_model), *ROOM, "--step-seconds", "3")
    assert server.get("/ready").status_code == 200
    with ThreadPoolExecutor(1) as pool:
        caught = pool.submit(server.post, "/v1/completions", {"model": str(tiny_model), **ENDLESS})
        wait_until(lambda: server.get("/health").json()["unfinished_requests"] == 1)
        stopped = kill(server, signal.SIGSTOP)
        wait_until(lambda: server.get("/health").json()["status"] != "ok")
        reply = caught.result(SECONDS)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_restarting")
    wait_until(lambda: server.get("/ready").status_code == 200)
    assert server.engine_pids() != [stopped]
    text(greedy(server, str(tiny_model), "hello"))


def test_deaths_in_a_row_end_the_server(start_server: Any, tiny_model: Path, tmp_path: Path) -> None:
    server = start_server(str(tiny_model), ledger=tmp_path / "usage.db")
    assert server.get("/ready").status_code == 200
    for _ in range(600):
        if server.process.poll() is not None:
            break
        for pid in server.engine_pids():
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
    assert server.process.wait(SECONDS) == 1
    wait_until(lambda: "error: The engine process of" in server.log)
    assert "exit code -9" in server.log and "once too often" in server.log and "Traceback" not in server.log
    with Ledger(server.ledger) as ledger:
        assert [run.status for run in ledger.runs(kind="serve")] == ["failed"]


@pytest.mark.parametrize("moment", ["at once", "while it opens"])
def test_a_signal_ends_a_server_whose_engine_is_away(start_server: Any, tiny_model: Path, moment: str) -> None:
    server = start_server(str(tiny_model))
    assert server.get("/ready").status_code == 200
    killed = kill(server)
    if moment == "while it opens":
        wait_until(lambda: server.engine_pids() not in ([], [killed]))
    assert server.stop() == 0
