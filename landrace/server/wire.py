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


def _written(body: dict[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False)
