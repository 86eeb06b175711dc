"""Calls that were refused or failed, counted by the code of their error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from landrace.server.http.errors import error_of


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
        try:
            await self._app(scope, receive, send)
        finally:
            if (code := error_of(scope)) is not None:
                self._failures.add(code)
