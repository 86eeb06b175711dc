"""Failures that no request should cause, brought about in the application itself."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
from fake_engines import registry_of

from landrace.errors import CheckpointError
from landrace.server.app import create_app
from landrace.server.serving import Serving
from landrace.server.usage import UsageLog


def reply_when(failure: Exception) -> httpx.Response:
    """The reply of an application whose tokenizer raises `failure`."""

    def encode(text: str, *, limit: int) -> list[int]:
        raise failure

    engine: Any = SimpleNamespace(
        tokenizer=SimpleNamespace(encode=encode),
        check_alive=lambda: None,
        settings=SimpleNamespace(model="m"),
        abilities=SimpleNamespace(check_writes=lambda model: None),
        max_length=8,
        prompt_limit=8,
        max_pending=8,
    )
    app = create_app(Serving(registry_of("m", engine), UsageLog(None, name="m", command="", config={})))

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/v1/completions", json={"model": "m", "prompt": "a"})

    return asyncio.run(post())


def test_a_broken_model_is_the_servers_fault() -> None:
    reply = reply_when(CheckpointError("The vocabulary is broken.", hint="Pull it again."))
    expected = {"message": "The vocabulary is broken. Pull it again.", "type": "server_error"}
    assert (reply.status_code, reply.json()["error"]) == (500, {**expected, "param": None, "code": None})


def test_a_bug_keeps_its_details_to_the_log() -> None:
    reply = reply_when(ZeroDivisionError("a secret"))
    assert reply.status_code == 500
    assert reply.json()["error"]["type"] == "server_error"
    assert "secret" not in reply.text
