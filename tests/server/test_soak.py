"""A server under a mixed and hostile load, its engine killed: nothing hangs, leaks or is answered wrong."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
from patience import SECONDS, wait_until
from soak_calls import CHAT, COMPLETION, EMBEDDING, questions, response_id, said
from soak_clients import Load, Watcher

from landrace.ledger import Ledger

SEED = int(os.environ.get("LANDRACE_SOAK_SEED", "12"))
CLIENTS, ROUND, ROUNDS, KILLS = 64, 500, 4, 3
CACHE_TOKENS = 2048
BATCH_LINES = 40
MOST_GROWTH = 16 << 20
"""Bytes of memory, from a warm process to the end: allocators keep some of what a busy moment took."""
MOST_DESCRIPTORS = 4
"""Connections to the ledger come and go with the threads that use it."""


@dataclass(frozen=True)
class Held:
    """What a process has of the machine."""

    resident: int
    descriptors: int
    children: int

    @classmethod
    def by(cls, pid: int) -> Held:
        process = psutil.Process(pid)
        return cls(process.memory_info().rss, process.num_fds(), len(process.children()))


def health(server: Any) -> dict[str, Any]:
    return dict(server.get("/health").json())


def held_places(server: Any) -> list[float]:
    """Of each group of the cache, what requests hold."""
    lines = server.get("/metrics").text.splitlines()
    return [float(line.split()[-1]) for line in lines if line.startswith("landrace_cache_tokens{") and '"held"' in line]


def settle(server: Any) -> None:
    """Waits until nothing runs and the engine is there."""
    wait_until(lambda: health(server)["unfinished_requests"] == 0 and server.get("/ready").status_code == 200)


class Batches:
    """In the background: two that go on through every kill, and one that is cancelled."""

    def __init__(self, server: Any, model: str) -> None:
        self._client = server.client
        self._bodies = [
            {
                "model": model,
                "messages": [{"role": "user", "content": f"Number {n}"}],
                "max_tokens": 8,
                "temperature": 0,
            }
            for n in range(BATCH_LINES)
        ]
        self._started = [self._start() for _ in range(3)]
        self._client.batches.cancel(self._started[2].id)

    def _start(self) -> Any:
        lines = [
            {"custom_id": str(n), "method": "POST", "url": CHAT, "body": one} for n, one in enumerate(self._bodies)
        ]
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        file = self._client.files.create(file=("calls.jsonl", data), purpose="batch")
        return self._client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")

    def check(self, server: Any) -> dict[str, int]:
        """That every line was answered, as it is now that nobody else asks. Rows of usage by the answers' ids."""
        ids: dict[str, int] = {}
        own = [server.post(CHAT, body).json()["choices"] for body in self._bodies]
        for begun, status in zip(self._started, ("completed", "completed", "cancelled"), strict=True):
            wait_until(lambda begun=begun: self._client.batches.retrieve(begun.id).status in ("completed", "cancelled"))  # type: ignore[misc]
            batch = self._client.batches.retrieve(begun.id)
            assert (batch.status, batch.error_file_id) == (status, None)
            text = "" if batch.output_file_id is None else self._client.files.content(batch.output_file_id).text
            entries = [json.loads(line) for line in text.splitlines()]
            assert status == "cancelled" or len(entries) == BATCH_LINES
            for entry in entries:
                body = entry["response"]["body"]
                assert body["choices"] == own[int(entry["custom_id"])]
                ids[body["id"]] = 1
        return ids


def kill_at_random(server: Any, load: Load, moments: list[int], killed: list[int]) -> None:
    """Kills the engine whenever so many calls have ended, however busy or half open it is."""
    for moment in moments:
        wait_until(lambda moment=moment: load.account.calls >= moment, 5 * SECONDS)  # type: ignore[misc]
        wait_until(server.engine_pids)
        (pid,) = server.engine_pids()
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)
        wait_until(lambda pid=pid: pid not in server.engine_pids() and server.get("/ready").status_code == 200)  # type: ignore[misc]


@pytest.mark.long
def test_soak(start_server: Any, tiny_model: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    rng, base = Random(SEED), str(tiny_model)
    shape = ("--cache-tokens", str(CACHE_TOKENS), "--max-running", "32", "--max-step-tokens", "128")
    kept = ("--adapter", f"tuned={tiny_adapter}", "--data", str(tmp_path / "data"))
    server = start_server(base, *shape, *kept, ledger=tmp_path / "usage.db")
    asked = questions(rng, (base, "tuned"), 8)
    idle = [server.post(one.path, one.body).json() for one in asked]
    replies = [said(one.path, body) for one, body in zip(asked, idle, strict=True)]
    load = Load(server.url, asked, replies, (base, "tuned"), SEED)
    moments = sorted(rng.sample(range(ROUND + 50, 3 * ROUND - 200), KILLS))
    killed: list[int] = []
    held: list[tuple[Held, Held]] = []
    killer = threading.Thread(target=kill_at_random, args=(server, load, moments, killed), daemon=True)
    began = time.monotonic()
    with Watcher(server.url) as watcher:
        batches = Batches(server, base)
        killer.start()
        for _ in range(ROUNDS):
            load.run(ROUND, CLIENTS)
            settle(server)
            held.append((Held.by(server.process.pid), Held.by(server.engine_pids()[0])))
        killer.join(SECONDS)
    account = load.account
    told = f"seed {SEED}, kills at {moments}, {time.monotonic() - began:.0f} s, {dict(account.ends)}, {held}"
    print(told)
    assert account.faults == [] and watcher.faults == [], (told, account.faults[:5], watcher.faults[:5])
    assert account.calls == ROUNDS * ROUND and len(killed) == KILLS, told
    assert account.ends["error: engine_restarting"] > 0 and account.ends["left"] > 0, told

    # The HTTP side is warm after the first round, the last engine after the third.
    (before, _), (_, engine_before), (after, engine_after) = held[0], held[2], held[3]
    for early, late in ((before, after), (engine_before, engine_after)):
        assert late.resident - early.resident < MOST_GROWTH, told
        assert late.descriptors - early.descriptors <= MOST_DESCRIPTORS, told
        assert late.children == early.children, told

    again = [server.post(one.path, one.body).json() for one in asked]
    assert [said(one.path, body) for one, body in zip(asked, again, strict=True)] == replies, told
    owed = {**account.owed, **batches.check(server)}
    for bodies in (idle, again):
        owed |= {response_id(body): one.rows for one, body in zip(asked, bodies, strict=True) if response_id(body)}
    wait_until(lambda: held_places(server) == [0.0])  # as of a second ago
    # It is given every place that the cache has, which it would wait for in vain if one were still held.
    half = CACHE_TOKENS // 2
    full = {"model": base, "prompt": "x" * half, "max_tokens": half, "ignore_eos": True, "timeout_seconds": SECONDS}
    reply = server.post(COMPLETION, full)
    assert reply.status_code == 200 and reply.json()["usage"]["total_tokens"] == CACHE_TOKENS, (told, reply.text)
    assert (health(server)["status"], health(server)["unfinished_requests"]) == ("ok", 0), told
    assert server.stop() == 0, told

    with Ledger(server.ledger) as ledger:
        assert [run.status for run in ledger.runs(kind="serve")] == ["finished"], told
        rows = list(ledger.usage())
    of_answer = Counter(row.response_id for row in rows)
    assert {name: of_answer[name] for name in owed} == owed, told
    nameless = [row for row in rows if row.response_id not in owed and row.finish_reason not in ("error", "abort")]
    embedded = account.nameless + 2 * sum(one.path == EMBEDDING for one in asked)
    assert sum(row.kind == "embedding" for row in nameless) >= embedded, told
    # Each call that was answered to the end after its client had gone; the rest is this test's own.
    assert len(nameless) <= embedded + account.unknown_rows + BATCH_LINES + 1, told
