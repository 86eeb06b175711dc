"""Whether a client is still there to read its reply."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

CLIENT_CLOSED = 499
"""The status nginx gives a call whose client went away; nobody is there to read it."""

T = TypeVar("T")


class ClientGoneError(Exception):
    """Nobody is there to read the reply."""


async def unless_gone(http: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away first."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _gone(http: Request) -> None:
    """Returns when the client has closed the connection; the body was read before."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
