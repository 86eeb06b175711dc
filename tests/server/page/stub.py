"""A server whose answers a test makes up: for what a real one does seldom."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Stub:
    """Sends `replies` one by one, whatever is asked; the last one again and again."""

    def __init__(self) -> None:
        stub = self
        self.replies: list[tuple[int, dict[str, str], list[str]]] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                stub.bodies.append(json.loads(body))
                stub.headers.append(dict(self.headers))
                status, headers, parts = stub.replies[0] if len(stub.replies) == 1 else stub.replies.pop(0)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in parts:
                    self.wfile.write(part.encode())
                    self.wfile.flush()

            def log_message(self, format: str, *args: Any) -> None:
                """Tests have no log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def streams(self, chunks: Iterable[dict[str, Any]], *, whole: bool = True) -> None:
        """The next reply is a stream; one that is not `whole` breaks off."""
        events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self.replies.append((200, {"Content-Type": "text/event-stream"}, [*events, *["data: [DONE]\n\n"] * whole]))

    def says(self, text: str, *, size: int = 3, **more: Any) -> None:
        """The next reply is this text, in pieces of `size` characters; `more` goes into the last chunk."""
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        chunks = [{"id": "chatcmpl-stub", "choices": [{"delta": {"content": piece}}]} for piece in pieces]
        self.streams([*chunks, {"id": "chatcmpl-stub", "choices": [{"delta": {}, "finish_reason": "stop"}], **more}])

    def fails(self, status: int, message: str, **headers: str) -> None:
        body = json.dumps({"error": {"message": message, "type": "x", "param": None, "code": None}})
        self.replies.append((status, {"Content-Type": "application/json", **headers}, [body]))

    def answers_for(self, page: Any, path: str = "/v1/chat/completions") -> None:
        """From now on the page's calls of `path` come here."""
        page.route(f"**{path}", lambda route: route.continue_(url=f"{self.url}{path}"))
