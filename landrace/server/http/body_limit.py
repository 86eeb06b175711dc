"""Refuses bodies that no request needs before they fill the memory."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 8 * 2**20
MAX_UPLOAD_BYTES = 512 * 2**20
_UPLOADS = "/v1/files"


class BodyLimit:
    """ASGI middleware: reading more of a body than `MAX_BODY_BYTES`, or than `MAX_UPLOAD_BYTES` of a file,
    raises HTTPException(413)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = 0
        most = MAX_UPLOAD_BYTES if scope.get("path") == _UPLOADS else MAX_BODY_BYTES

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise HTTPException(413, f"The body has more than {most:,} bytes.")
            return message

        await self._app(scope, limited, send)
