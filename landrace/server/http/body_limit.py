"""Refuses bodies that no request needs before they fill the memory, and those that come too slowly."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from landrace.server.http.bounds import Bounds

MAX_BODY_BYTES = 8 * 2**20
MAX_UPLOAD_BYTES = 512 * 2**20
_UPLOADS = "/v1/files"


class BodyLimit:
    """ASGI middleware: reading more of a body than `MAX_BODY_BYTES`, or than `MAX_UPLOAD_BYTES` of a file, raises
    HTTPException(413), waiting longer for it than the bounds allow HTTPException(408)."""

    def __init__(self, app: ASGIApp, bounds: Bounds) -> None:
        self._app = app
        self._bounds = bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = 0
        most = MAX_UPLOAD_BYTES if scope.get("path") == _UPLOADS else MAX_BODY_BYTES
        whole = False
        due = asyncio.get_running_loop().time() + self._bounds.body_seconds

        async def limited() -> Message:
            nonlocal taken, whole
            if whole:  # what comes now is that the client has gone
                return await receive()
            try:
                async with asyncio.timeout_at(due + taken / self._bounds.body_bytes_per_second):
                    message = await receive()
            except TimeoutError as error:
                gone = {"Connection": "close"}
                raise HTTPException(408, "The body did not come in time.", headers=gone) from error
            taken += len(message.get("body", b""))
            if taken > most:
                raise HTTPException(413, f"The body has more than {most:,} bytes.")
            whole = not message.get("more_body", False)
            return message

        await self._app(scope, limited, send)
