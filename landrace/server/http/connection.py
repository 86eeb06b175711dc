"""A client's connection, with bounds on its headers, on its time and on how many there are."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from landrace.server.http.bounds import Bounds
from landrace.server.http.errors import error_body
from landrace.server.http.stream import PAST_MIDDLEWARE

MAX_HEAD_BYTES = 2**16
MAX_HEADERS = 100
_LINGER_SECONDS = 2.0
"""How long a client may go on sending what nobody will read, so that it gets to read the reply before the end."""


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, which has no time-outs but one for idle connections, and no bounds on headers."""

    def __init__(self, *arguments: Any, bounds: Bounds, turned_away: set[Connection], **named: Any) -> None:
        """`turned_away` is shared by all connections of a server: those that are told that there are too many."""
        super().__init__(*arguments, **named)
        self._bounds = bounds
        self._turned_away = turned_away
        self._deadline: asyncio.TimerHandle | None = None
        """For what is awaited of the client: a request's headers, or the rest of a body that nobody wants."""
        self._send_deadline: asyncio.TimerHandle | None = None
        self._unread = 0
        """Bytes that came since the parser last had something to tell."""
        self._head_bytes = 0
        self._in_message = False
        self._refusal: tuple[int, str] | None = None

    # What the transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self._bounds.connections and not self._end_an_idle_one():
            self._turn_away(transport)
            return
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._turned_away.discard(self)
        self._stop_waiting()
        if self._send_deadline is not None:
            self._send_deadline.cancel()
        if self.transport is not None:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        self._unread += len(data)
        super().data_received(data)
        if self._unread > MAX_HEAD_BYTES:
            self._refuse(431, f"The headers of a request may have {MAX_HEAD_BYTES:,} bytes.")
        elif not (self._in_message or self._deadline or self._answering):  # line ends between two requests
            self._await_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._send_deadline is not None and not self.transport.is_closing():
            self._send_deadline.cancel()
            self._send_deadline = None

    # What the parser calls.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_message = True
        self._head_bytes = 0
        if self._deadline is None:
            self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if len(self.headers) >= MAX_HEADERS:
            self._refusal = (431, f"A request may have {MAX_HEADERS} headers.")
        elif self._head_bytes + len(self.url) > MAX_HEAD_BYTES:
            self._refusal = (431, f"The headers of a request may have {MAX_HEAD_BYTES:,} bytes.")
        if self._refusal is not None:
            raise ValueError(self._refusal[1])  # the parser stops, and `send_400_response` is called
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unread = 0
        self._stop_waiting()
        super().on_headers_complete()
        self.scope["extensions"] = {PAST_MIDDLEWARE: {"send": self.cycle.send}}

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread = 0
        self._in_message = False
        self._stop_waiting()
        super().on_message_complete()

    # What uvicorn calls.

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._await_reading()
        elif self._in_message and not self._answering:  # an error came before the body's end
            self._await(_LINGER_SECONDS, self._close)

    def send_400_response(self, msg: str) -> None:
        self._refuse(*(self._refusal or (400, "The request is not valid HTTP/1.1.")))

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._await_reading()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await(self, seconds: float, otherwise: Any) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(seconds, otherwise)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _await_head(self) -> None:
        self._await(self._bounds.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        if self._answering:  # it is that of the next request: what runs is not to suffer
            self._await_head()
        elif self._in_message:
            self._refuse(408, "The headers of the request did not come in time.")
        else:
            self._close()

    def _await_reading(self) -> None:
        """Ends the connection with what is still to be sent on it, unless the client takes that in time."""
        if self._send_deadline is None:
            self._send_deadline = self.loop.call_later(self._bounds.send_seconds, self.transport.abort)

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
        self._await_reading()

    def _refuse(self, status: int, message: str) -> None:
        """A reply without the application. One that has begun is cut short: nothing can be said any more."""
        if not self._answering:
            self.transport.write(_reply(status, message))
        self._close()

    def _end_an_idle_one(self) -> bool:
        """Room for a new connection: that of a client that asks for nothing."""
        for other in self.connections:
            if isinstance(other, Connection) and other.timeout_keep_alive_task is not None:
                other._unset_keepalive_if_required()
                other._close()
                return True
        return False

    def _turn_away(self, transport: asyncio.Transport) -> None:
        """Says why, unless there are as many again who are being told. Its request is not read."""
        if len(self._turned_away) >= self._bounds.connections:
            transport.abort()
            return
        self._turned_away.add(self)
        if transport.can_write_eof():
            transport.pause_reading()
        transport.write(_reply(503, "The server has as many connections as it accepts. Try again shortly."))
        if transport.can_write_eof():
            transport.write_eof()
        self._deadline = self.loop.call_later(_LINGER_SECONDS, transport.abort)


def _reply(status: int, message: str) -> bytes:
    codes = {400: "invalid_http", 408: "request_timeout", 431: "headers_too_large", 503: "too_many_connections"}
    body = json.dumps(error_body(status, message, code=codes[status])).encode()
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
    again = "retry-after: 1\r\n" if status == 503 else ""
    return f"{head}{again}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body
