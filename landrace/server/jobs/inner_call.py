"""A call that the server makes to its own routes: checked, answered and metered like one from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message

from landrace.server.access.caller import Caller, note_caller


@dataclass(frozen=True)
class Reply:
    """What a route answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def inner_call(app: ASGIApp, path: str, body: bytes, caller: Caller) -> Reply:
    """POSTs JSON to a route of `app` as `caller`. Cancelled, it is a client that has gone."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        "client": None,
        "server": None,
        "state": {},
    }
    note_caller(HTTPConnection(scope), caller)
    sent: list[Message] = []
    given = False
    ended = asyncio.Event()

    async def receive() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def answer() -> None:
        await app(scope, receive, send)

    try:
        await asyncio.create_task(answer())  # the model that it finds is in use until this task has ended
    finally:
        ended.set()
    start = next(message for message in sent if message["type"] == "http.response.start")
    parts = [message.get("body", b"") for message in sent if message["type"] == "http.response.body"]
    return Reply(start["status"], Headers(raw=start.get("headers", [])), b"".join(parts))
