"""`Events`: what happened to a job, appended to a file."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from landrace.server.http.errors import ApiError
from landrace.server.jobs.records import storing


class Events:
    """Of one job."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(
        self, message: str, *, level: str = "info", kind: str = "message", data: Mapping[str, Any] | None = None
    ) -> None:
        """`kind`: "message" or "metrics"; `level`: "info", "warn" or "error"."""
        event = {
            "id": f"ftevent-{secrets.token_hex(12)}",
            "object": "fine_tuning.job.event",
            "created_at": int(time.time()),
            "level": level,
            "message": message,
            "type": kind,
            "data": dict(data or {}),
        }
        with storing(self._path.parent), self._path.open("ab") as stream:
            stream.write(b"\n" + json.dumps(event, ensure_ascii=False).encode() + b"\n")

    def all(self) -> list[dict[str, Any]]:
        """Oldest first; one that a death cut off is left out."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            with suppress(ValueError):
                found.append(json.loads(line))
        return found

    def page(self, *, after: str | None, limit: int) -> dict[str, Any]:
        """A list of the API, newest first."""
        events = self.all()[::-1]
        if after is not None:
            places = [place for place, event in enumerate(events) if event["id"] == after]
            if not places:
                raise ApiError(400, f"There is no event {after!r} in this list.", param="after")
            events = events[places[0] + 1 :]
        return {"object": "list", "data": events[:limit], "has_more": len(events) > limit}

    @property
    def last_step(self) -> int:
        """The newest step that was told; 0: none."""
        return max((event["data"]["step"] for event in self.all() if event["type"] == "metrics"), default=0)
