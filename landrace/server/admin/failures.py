"""Calls that were refused or failed, counted by the code of their error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from landrace.server.http.errors import code_of

_FIRST_ERROR = 400


class Failures:
    """Since the server started. Codes are the server's own words, so there are only so many."""

    def __init__(self) -> None:
        self._by_code: Counter[str] = Counter()

    def add(self, code: str) -> None:
        self._by_code[code] += 1

    @property
    def by_code(self) -> Mapping[str, int]:
        """The most frequent first."""
        return dict(self._by_code.most_common())


class CountFailures:
    """ASGI middleware that counts into `failures`."""

    def __init__(self, app: ASGIApp, failures: Failures) -> None:
        self._app = app
        self._failures = failures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= _FIRST_ERROR:
                self._failures.add(code_of(scope) or f"status_{message['status']}")
            await send(message)

        await self._app(scope, receive, noted)
