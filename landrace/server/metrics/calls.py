"""`CallMetrics`: every call by its route and status, and how long it took."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from landrace.server.http.presence import CLIENT_CLOSED

_SECONDS = (0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600)
_NOTHING = "none"
"""The route of a call to a path that is none, so that made-up paths do not make new numbers."""


class CallMetrics:
    """The numbers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("method", "route", "status")
        self.total = Counter("landrace_http_requests", "Calls by route and status.", labels, registry=registry)
        self.seconds = Histogram(
            "landrace_http_request_duration_seconds",
            "From a call's arrival to the end of its reply.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.open = Gauge("landrace_http_requests_open", "Calls that are being answered.", registry=registry)


class CountCalls:
    """ASGI middleware that counts into `metrics`."""

    def __init__(self, app: ASGIApp, metrics: CallMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), CLIENT_CLOSED  # unless there is a reply

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._metrics.open.track_inprogress():
            try:
                await self._app(scope, receive, noted)
            finally:
                route = getattr(scope.get("route"), "path", _NOTHING)
                method = scope["method"] if route != _NOTHING else _NOTHING
                self._metrics.total.labels(method, route, str(status)).inc()
                self._metrics.seconds.labels(route).observe(time.perf_counter() - began)
