"""`Stream`: a reply that is sent piece by piece, at little cost for each."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from landrace.server.http.presence import ClientGoneError, unless_gone

PAST_MIDDLEWARE = "landrace.past_middleware"
"""An extension of the ASGI scope, where a connection has it: its own `send`, by that name. Middleware looks at
how a reply begins and ends; what lies between takes this way, as every layer costs each token a call."""


class Stream(Response):
    """However it ends, the generator behind it ends with it, not when it is collected."""

    def __init__(self, first: str, rest: AsyncGenerator[str, None], media_type: str) -> None:
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self._first = first
        self._rest = rest
        self.init_headers({"Cache-Control": "no-cache"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(Request(scope, receive), self._send(send, past_middleware(scope, send)))
        except ClientGoneError:
            return
        finally:
            await self._rest.aclose()

    async def _send(self, send: Send, send_piece: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send_piece(_body(self._first))
        async for piece in self._rest:
            await send_piece(_body(piece))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def past_middleware(scope: Scope, send: Send) -> Send:
    """The shortest way to the client: the connection's own, or else `send`."""
    found: Send = scope.get("extensions", {}).get(PAST_MIDDLEWARE, {}).get("send", send)
    return found


def _body(piece: str) -> Message:
    return {"type": "http.response.body", "body": piece.encode(), "more_body": True}
