"""`described`: what a route says of itself, beside its path: `@router.post("/v1/score", **described("...", Body, Reply))`.

A test fails for a route that says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

JSON, EVENTS = "application/json", "text/event-stream"
PLACE = "landrace"
"""Where a route keeps its description, in FastAPI's `openapi_extra`."""

Content = type[BaseModel] | dict[str, Any]
"""A model, or a JSON schema as it is."""


class Told(BaseModel):
    """A part of a reply, written down for the document; routes write their replies themselves, and tests hold them
    against it."""

    model_config = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Description:
    """What goes in and what comes out; errors have one shape everywhere and need no word."""

    summary: str
    body: Content | None = None
    reply: Content | None = None
    media_type: str = JSON
    """Of the reply."""
    stream: Content | None = None
    """What the events of a stream hold, where one can be asked for."""
    body_type: str = JSON
    also: tuple[int, ...] = ()
    """Further statuses that come with such a reply."""
    is_open: bool = False
    """Whether it asks for no key."""


def described(summary: str, body: Content | None = None, reply: Content | None = None, **more: Any) -> dict[str, Any]:
    """Arguments of a route; `more` as in `Description`."""
    return {"openapi_extra": {PLACE: Description(summary, body, reply, **more)}}
