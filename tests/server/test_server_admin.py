"""`/v1/admin` of a real server with keys, a ledger and jobs."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from patience import SECONDS, wait_until

from landrace.ledger import Ledger
from landrace.server.admin.schema import FeedbackTable, JobTable, KeyTable, Overview, UsageTable

SAID = [{"role": "user", "content": "a private question"}]
PATHS = ("overview", "usage", "keys", "jobs", "feedback", "bundle")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("admin") / "ledger.sqlite"


@pytest.fixture(scope="module")
def secrets(place: Path) -> dict[str, str]:
    with Ledger(place) as ledger:
        return {
            "boss": ledger.create_key("boss", is_admin=True)[1],
            "clerk": ledger.create_key("clerk", team="shop", tokens_per_minute=100_000)[1],
        }


@pytest.fixture(scope="module")
def watched(
    start_server: Callable[..., Any], tiny_model: Path, tiny_adapter: Path, place: Path, secrets: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:  # fmt: skip
    """After three answers, a refusal and a rating."""
    data = str(tmp_path_factory.mktemp("data"))
    more = ("--adapter", f"tuned={tiny_adapter}", "--price-per-hour", "3600", "--data", data)
    server = start_server(str(tiny_model), *more, ledger=place)
    body = {"model": str(tiny_model), "messages": SAID, "max_tokens": 6, "ignore_eos": True}
    replies = [call(server, secrets["clerk"], "/v1/chat/completions", body) for _ in range(3)]
    assert all(reply.status_code == 200 for reply in replies), replies[0].text
    assert call(server, "guess", "/v1/models").status_code == 401
    rating = {"response_id": replies[0].json()["id"], "rating": "down", "correction": "a private correction"}
    assert call(server, secrets["clerk"], "/v1/feedback", rating).status_code == 200
    return server


def call(server: Any, secret: str, path: str, body: Any = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {secret}"}
    if body is None:
        return httpx.get(f"{server.url}{path}", headers=headers, timeout=SECONDS)
    return httpx.post(f"{server.url}{path}", headers=headers, json=body, timeout=SECONDS)


@pytest.fixture
def admin(watched: Any, secrets: dict[str, str]) -> Callable[[str], httpx.Response]:
    return lambda path: call(watched, secrets["boss"], f"/v1/admin/{path}")


@pytest.mark.parametrize("path", PATHS)
def test_only_administrators_are_told(watched: Any, secrets: dict[str, str], path: str) -> None:
    refused = call(watched, secrets["clerk"], f"/v1/admin/{path}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_only")
    assert call(watched, "guess", f"/v1/admin/{path}").status_code == 401
    assert call(watched, secrets["boss"], f"/v1/admin/{path}").status_code == 200


def test_the_overview_is_what_happened(admin: Callable[[str], httpx.Response], tiny_model: Path) -> None:
    told = Overview.model_validate_json(admin("overview").content)
    assert told.answers == {"length": 3}
    assert told.errors["invalid_api_key"] >= 1
    assert told.latency.answers == 3 and told.latency.first_token.p50 is not None
    assert told.latency.token.p99 is not None and told.latency.whole.p50 is not None
    assert told.latency.first_token.p50 <= told.latency.whole.p50
    assert told.uptime_seconds > 0 and told.memory_bytes > 0 and told.usage["status"] == "ok"
    (model,) = told.models
    assert (model.id, model.state, model.restarts, model.trouble) == (str(tiny_model), "ready", 0, None)
    assert [one.id for one in model.adapters] == ["tuned"]
    assert model.resident_bytes is not None and model.resident_bytes > 1_000_000
    (cache,) = model.cache
    assert cache.size == cache.held + cache.free and cache.reusable <= cache.free
    wait_until(lambda: sum(one["generated"] for one in admin("overview").json()["history"]) > 0)


def test_usage_is_summed_by_what_is_asked_for(
    admin: Callable[[str], httpx.Response], tiny_model: Path, secrets: dict[str, str]
) -> None:
    wait_until(lambda: sum(row["requests"] for row in admin("usage").json()["data"]) == 3)
    (row,) = UsageTable.model_validate_json(admin("usage?by=key").content).data
    assert (row.key_name, row.requests, row.completion_tokens) == ("clerk", 3, 18)
    assert row.cost == pytest.approx(row.machine_seconds, abs=1e-5) and row.cost > 0
    both = admin("usage?by=model,team&days=1").json()
    assert both["data"][0]["group"] == {"model": str(tiny_model), "team": "shop"}
    refused = admin("usage?by=colour")
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "by"


def test_keys_are_told_without_secrets(admin: Callable[[str], httpx.Response], secrets: dict[str, str]) -> None:
    wait_until(lambda: admin("keys").json()["data"][1]["requests_this_month"] == 3)
    reply = admin("keys")
    boss, clerk = KeyTable.model_validate_json(reply.content).data
    assert (boss.name, boss.is_admin, boss.requests_this_month) == ("boss", True, 0)
    assert (clerk.team, clerk.tokens_per_minute, clerk.money_per_month) == ("shop", 100_000, None)
    assert clerk.spent_this_month > 0 and clerk.tokens_this_month > 18
    assert not any(secret in reply.text for secret in secrets.values()) and "sha256" not in reply.text


def test_feedback_is_told_without_texts(admin: Callable[[str], httpx.Response]) -> None:
    reply = admin("feedback")
    (row,) = FeedbackTable.model_validate_json(reply.content).data
    assert (row.rating, row.team, row.has_correction, row.has_comment) == ("down", "shop", True, False)
    assert "private" not in reply.text


def test_jobs_come_with_their_losses(
    watched: Any, admin: Callable[[str], httpx.Response], secrets: dict[str, str], tiny_model: Path
) -> None:
    said = {"messages": [*SAID, {"role": "assistant", "content": "No."}]}
    rows = (json.dumps(said) + "\n").encode() * 8
    headers = {"Authorization": f"Bearer {secrets['clerk']}"}
    upload = {"purpose": "fine-tune"}, {"file": ("rows.jsonl", rows)}
    file = httpx.post(f"{watched.url}/v1/files", headers=headers, data=upload[0], files=upload[1], timeout=SECONDS)
    asked = {"model": str(tiny_model), "training_file": file.json()["id"], "hyperparameters": {"n_epochs": 1}}
    job = call(watched, secrets["clerk"], "/v1/fine_tuning/jobs", asked).json()
    wait_until(lambda: admin("jobs").json()["tuning"][0]["losses"], seconds=6 * SECONDS)
    table = JobTable.model_validate_json(admin("jobs").content)
    assert table.batches == []
    (row,) = table.tuning
    assert (row.id, row.owner, row.model) == (job["id"], "team:shop", str(tiny_model))
    assert row.losses[0].step == 1 and row.losses[0].train_loss > 0


def test_the_bundle_holds_no_prompt_and_no_secret(
    admin: Callable[[str], httpx.Response], secrets: dict[str, str], place: Path
) -> None:
    reply = admin("bundle")
    assert reply.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        files = {name.rpartition("/")[2]: archive.read(name).decode() for name in archive.namelist()}
    assert set(files) == {"versions.json", "machine.json", "options.json", "overview.json", "log.txt"}
    assert json.loads(files["versions.json"])["libraries"]["torch"]
    assert json.loads(files["machine.json"])["cores"] >= 1
    assert json.loads(files["options.json"])["threads"] == 1
    Overview.model_validate_json(files["overview.json"])
    whole = "".join(files.values())
    assert "private" not in whole and str(place) not in whole
    assert not any(secret in whole for secret in secrets.values())


def test_a_server_without_ledger_and_jobs_says_so(start_server: Callable[..., Any], tiny_model: Path) -> None:
    server = start_server(str(tiny_model))
    told = server.get("/v1/admin/overview").json()
    assert (told["has_ledger"], told["has_jobs"]) == (False, False)
    for path in ("usage", "keys", "feedback", "jobs"):
        reply = server.get(f"/v1/admin/{path}")
        assert reply.status_code == 404 and "without --" in reply.json()["error"]["message"]
