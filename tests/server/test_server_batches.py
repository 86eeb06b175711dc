"""Batches: every line answered once as the API answers it, whatever happens to the server meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from patience import SECONDS

ENDED = ("completed", "failed", "expired", "cancelled")


@pytest.fixture(scope="module")
def keeping(start_server: Callable[..., Any], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return start_server(str(tiny_model), "--data", str(tmp_path_factory.mktemp("data")), "--max-pending", "8")


def body(model: Path, number: int, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Number {number}"}]
    return {"model": str(model), "messages": messages, "temperature": 0, "max_tokens": 8, **more}


def lines_of(bodies: list[Any], url: str = "/v1/chat/completions") -> list[dict[str, Any]]:
    return [{"custom_id": f"line {n}", "method": "POST", "url": url, "body": one} for n, one in enumerate(bodies)]


def upload(client: openai.OpenAI, lines: list[Any]) -> str:
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return client.files.create(file=("batch.jsonl", data), purpose="batch").id


def start(client: openai.OpenAI, lines: list[Any], endpoint: Any = "/v1/chat/completions") -> Any:
    return client.batches.create(input_file_id=upload(client, lines), endpoint=endpoint, completion_window="24h")


def wait(client: openai.OpenAI, batch: Any) -> Any:
    deadline = time.monotonic() + SECONDS
    while batch.status not in ENDED and time.monotonic() < deadline:
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    return batch


def output(client: openai.OpenAI, file_id: str) -> dict[str, Any]:
    return {entry["custom_id"]: entry for entry in map(json.loads, client.files.content(file_id).text.splitlines())}


def test_lines_are_answered_as_calls_are(keeping: Any, tiny_model: Path) -> None:
    client = keeping.client
    bodies = [body(tiny_model, n) for n in range(20)]
    bad = [body(tiny_model, 1, top_p=7), body(tiny_model, 2, no_such_field=1), {**body(tiny_model, 3), "model": "none"}]
    batch = wait(client, start(client, lines_of([*bodies, *bad])))
    assert (batch.status, batch.request_counts.total) == ("completed", 23)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (20, 3)
    answers, errors = output(client, batch.output_file_id), output(client, batch.error_file_id)
    for n, asked in enumerate(bodies):
        entry = answers[f"line {n}"]
        own = keeping.post("/v1/chat/completions", asked).json()
        assert entry["response"]["status_code"] == 200
        assert entry["response"]["body"]["choices"] == own["choices"]
    assert [errors[f"line {n}"]["response"]["status_code"] for n in (20, 21, 22)] == [400, 400, 404]
    assert errors["line 21"]["response"]["body"]["error"]["param"] == "no_such_field"
    listed = client.batches.list(limit=1).data[0]
    assert listed.id == batch.id


def test_a_file_that_is_no_batch_fails_with_its_lines(keeping: Any, tiny_model: Path) -> None:
    client = keeping.client
    good = lines_of([body(tiny_model, 0), body(tiny_model, 1)])
    wrong = [
        good[0],
        {**good[1], "custom_id": "line 0"},
        {**good[1], "url": "/v1/completions"},
        {**good[1], "method": "GET"},
        {**good[1], "body": body(tiny_model, 1, stream=True)},
        {**good[1], "more": 1},
        7,
    ]
    batch = wait(client, start(client, wrong))
    assert batch.status == "failed"
    assert [fault.line for fault in batch.errors.data] == [2, 3, 4, 5, 6, 7]
    empty = client.batches.create(
        input_file_id=client.files.create(file=("e", b"\n\n"), purpose="batch").id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
    )
    assert wait(client, empty).errors.data[0].code == "empty_file"


def test_what_cannot_be_a_batch_is_refused_at_once(keeping: Any) -> None:
    client = keeping.client
    other = client.files.create(file=("e", b"{}"), purpose="user_data").id
    for asked, param in (
        ({"input_file_id": other, "endpoint": "/v1/chat/completions"}, "input_file_id"),
        ({"input_file_id": "file-0", "endpoint": "/v1/chat/completions"}, "input_file_id"),
        ({"input_file_id": other, "endpoint": "/v1/files"}, "endpoint"),
        ({"input_file_id": other, "endpoint": "/v1/completions", "completion_window": "1h"}, "completion_window"),
    ):
        answer = keeping.post("/v1/batches", {"completion_window": "24h", **asked})
        assert answer.json()["error"]["param"] == param


def test_a_cancelled_batch_keeps_what_it_has(keeping: Any, tiny_model: Path) -> None:
    client = keeping.client
    batch = start(client, lines_of([body(tiny_model, n, max_tokens=400, ignore_eos=True) for n in range(60)]))
    with pytest.raises(openai.ConflictError):
        client.files.delete(batch.input_file_id)
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    ended = wait(client, batch)
    assert ended.status == "cancelled"
    assert ended.request_counts.completed < 60
    with pytest.raises(openai.BadRequestError):
        client.batches.cancel(batch.id)
    client.files.delete(batch.input_file_id)


def test_a_batch_survives_its_server(start_server: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    bodies = [body(tiny_model, n, max_tokens=60, ignore_eos=True) for n in range(60)]
    first = start_server(str(tiny_model), "--data", str(tmp_path))
    batch = start(first.client, lines_of(bodies))
    deadline = time.monotonic() + SECONDS
    while first.client.batches.retrieve(batch.id).request_counts.completed < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    first.process.kill()
    first.process.wait()
    for journal in (tmp_path / "batches").glob("*.journal"):
        with journal.open("ab") as stream:
            stream.write(b'{"cut": "o')
    second = start_server(str(tiny_model), "--data", str(tmp_path))
    ended = wait(second.client, batch)
    assert (ended.status, ended.request_counts.completed) == ("completed", 60)
    answers = output(second.client, ended.output_file_id)
    assert len(answers) == 60
    assert answers["line 59"]["response"]["body"]["usage"]["completion_tokens"] == 60
    assert not list((tmp_path / "batches").glob("*.journal"))
