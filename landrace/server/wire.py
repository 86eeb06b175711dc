"""How what is streamed is written: server-sent events, or a line of JSON each."""

from __future__ import annotations

import json
import secrets
import string
from typing import Any

EVENTS, LINES = "text/event-stream", "application/x-ndjson"
"""The media types."""
_EVENT_BYTES = 128
"""Events that hide their sizes are a multiple of this long."""
_written = json.JSONEncoder(ensure_ascii=False).encode


def server_event(body: dict[str, Any], name: str | None = None, *, obfuscate: bool = False) -> str:
    """One server-sent event. `obfuscate`: filled up, so that its size tells little of its text."""
    if obfuscate:
        size = len(_written({**body, "obfuscation": ""}).encode())
        letters = "".join(secrets.choice(string.ascii_letters) for _ in range(-size % _EVENT_BYTES))
        body = {**body, "obfuscation": letters}
    heading = "" if name is None else f"event: {name}\n"
    return f"{heading}data: {_written(body)}\n\n"


def line(body: dict[str, Any]) -> str:
    """One line of JSON."""
    return f"{_written(body)}\n"


class Envelope:
    """Events that differ in nothing but their one choice: what is around it is written once."""

    def __init__(self, body: dict[str, Any]) -> None:
        """`body` has None for its choice."""
        # Within a string the marks around the name would be escaped, so this is found once.
        before, after = _written(body).split('"choices": [null]')
        self._before, self._after = f'data: {before}"choices": [', f"]{after}\n\n"

    def event(self, choice: dict[str, Any]) -> str:
        """As `server_event` writes the body with this choice."""
        return f"{self._before}{_written(choice)}{self._after}"
