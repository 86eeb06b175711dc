"""A server on a ledger in PostgreSQL, as an operator runs it: metered, priced, and without its password anywhere."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from patience import wait_until
from postgres_server import PASSWORD

from landrace.ledger import Ledger
from landrace.ledger.money import cost_of


def test_a_server_meters_into_a_database(start_server: Any, tiny_model: Path, postgres_url: str) -> None:
    server = start_server(str(tiny_model), "--price-per-hour", "3.6", ledger=postgres_url)
    chat = {"model": str(tiny_model), "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
    answer = server.post("/v1/chat/completions", chat).json()
    text = server.post("/v1/completions", {"model": str(tiny_model), "prompt": ["a", "b"], "max_tokens": 3}).json()
    with Ledger(postgres_url) as ledger:
        wait_until(lambda: len(ledger.usage()) == 3)
        rows = ledger.usage()
    assert [(row.kind, row.response_id) for row in rows] == [
        ("chat", answer["id"]),
        ("completion", text["id"]),
        ("completion", text["id"]),
    ]
    for row in rows:
        assert 0 < row.machine_seconds <= row.total_seconds
        assert row.cost == cost_of(row.machine_seconds, 3.6)
        assert (row.key_id, row.team) == (None, None)
    health = server.get("/health").json()
    assert (health["status"], health["usage"]["status"], health["usage"]["lost"]) == ("ok", "ok", 0)
    assert server.stop() == 0
    with Ledger(postgres_url) as ledger:
        (run,) = ledger.runs()
    assert run.status == "finished"
    assert ":***@" in run.command
    assert run.config["price_per_hour"] == 3.6
    assert PASSWORD not in f"{run.command} {run.config} {server.lines}"


@pytest.mark.long
def test_a_server_ends_although_its_ledger_is_held(start_server: Any, tiny_model: Path, tmp_path: Path) -> None:
    """It answers as ever, names the file of what it could not store, and the next server stores that."""
    path = tmp_path / "l.db"
    server = start_server(str(tiny_model), ledger=path)
    assert server.url
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    prompt = {"model": str(tiny_model), "prompt": "a", "max_tokens": 3}
    assert all(server.post("/v1/completions", prompt).status_code == 200 for _ in range(3))
    wait_until(lambda: server.get("/health").json()["usage"]["spilled"] == 3)
    health = server.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    server.stop()
    (spilled,) = tmp_path.glob("*-spill-*")
    assert f"The usage of 3 requests is not in the ledger but in {spilled}" in "".join(server.lines)
    holder.execute("ROLLBACK")
    holder.close()
    again = start_server(str(tiny_model), ledger=path)
    assert again.url
    wait_until(lambda: not list(tmp_path.glob("*-spill-*")))
    with Ledger(path) as ledger:
        assert [(row.kind, row.run_id) for row in ledger.usage()] == [("completion", 1)] * 3
    assert again.stop() == 0


def test_a_server_whose_ledger_cannot_be_opened_does_not_start(
    start_server: Any, tiny_model: Path, postgres_url: str
) -> None:
    server = start_server(str(tiny_model), ledger=postgres_url.replace(PASSWORD, "wrong-secret"))
    assert server.process.wait(120) == 1
    said = "".join(server.lines)
    assert "cannot be used" in said
    assert "wrong-secret" not in said
