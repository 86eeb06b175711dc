"""Follows every call from its arrival to its end, and has a thread tell of it, so that no call waits for that."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from landrace.server.access.caller import caller_of
from landrace.server.access.tally import tally_of
from landrace.server.http.errors import error_of
from landrace.server.http.presence import CLIENT_CLOSED
from landrace.server.logs.ended_call import EndedCall
from landrace.server.logs.running_call import current_request_id

_PROBES = ("/health", "/ready", "/metrics")
"""Asked every few seconds by machines: calls of them that succeed are not told."""
_TRACE = (b"traceparent", b"tracestate")
_MOST_WAITING = 4096
"""Calls that wait to be told; beyond that they are counted."""
_END_SECONDS = 10.0
_log = logging.getLogger(__name__)


class Teller(Protocol):
    """Its methods are called by one thread."""

    def tell(self, call: EndedCall) -> None: ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class CallWatch:
    """Hands calls that ended to each of `tellers`. `None` on its queue is the end."""

    def __init__(self, tellers: Sequence[Teller]) -> None:
        self._tellers = tellers
        self._calls: queue.Queue[EndedCall | None] = queue.Queue(_MOST_WAITING)
        self._left_out = 0
        self._thread = threading.Thread(target=self._run, name="calls", daemon=True)
        self._thread.start()

    def add(self, call: EndedCall) -> None:
        """Never waits. For one thread, the event loop's."""
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._left_out += 1
            return
        if self._left_out:
            _log.warning("%d calls are not in the log: they came faster than it is written.", self._left_out)
            self._left_out = 0

    def close(self) -> None:
        """Returns when everything is told, or after some seconds."""
        try:
            self._calls.put(None, timeout=_END_SECONDS)
        except queue.Full:
            return
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            for teller in self._tellers:
                try:
                    teller.tell(call)
                except Exception:  # noqa: BLE001  whatever is wrong with one call, the next ones are told
                    _log.exception("A call could not be told.")
        for teller in self._tellers:
            teller.close()


class WatchCalls:
    """ASGI middleware. It lies inside of what gives calls their ids, and outside of all that may refuse them."""

    def __init__(self, app: ASGIApp, watch: CallWatch) -> None:
        self._app = app
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived, began = time.time(), time.perf_counter()
        status = CLIENT_CLOSED  # unless there is a reply

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            if status >= 400 or scope["path"] not in _PROBES:
                self._watch.add(_ended(scope, status, arrived, time.perf_counter() - began))


def _ended(scope: Scope, status: int, arrived: float, seconds: float) -> EndedCall:
    http = HTTPConnection(scope)
    client = scope.get("client")
    return EndedCall(
        method=scope["method"],
        path=scope["path"],
        route=getattr(scope.get("route"), "path", None),
        status=status,
        error=error_of(scope),
        request_id=current_request_id(),
        caller=caller_of(http),
        tally=tally_of(http),
        address=client[0] if client else None,
        trace={name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _TRACE},
        arrived=arrived,
        seconds=seconds,
    )
