"""Gives every reply an `x-request-id`: the caller's own, or a new one."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from landrace.server.logs.running_call import note_running_call

HEADER = "x-request-id"
_SANE = re.compile(r"[A-Za-z0-9._:=+/@-]{1,128}")


class RequestId:
    """ASGI middleware. A caller's id that is long or holds other characters than ids need is not repeated."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        own = given if _SANE.fullmatch(given) else f"req_{uuid.uuid4().hex}"

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = own
            await send(message)

        running = note_running_call(own)
        await self._app(scope, receive, named)
        running.request_id = None  # after an error it stays: that is logged once it has got here
