"""`described`: what a route says of itself: `@router.post("/v1/score", **described("What it does.", Body, Reply))`.

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

OBJECT: dict[str, Any] = {"type": "object"}


class Told(BaseModel):
    """A part of a reply, written down for the document; routes write their replies themselves, and tests hold them
    against it."""

    # A client must bear fields that come with a later version; a test need not.
    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra=lambda schema: schema.pop("additionalProperties", None)
    )


@dataclass(frozen=True)
class Description:
    """What goes in and what comes out."""

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
    failure: Content | None = None
    """The shape of its errors, where that is not the usual one."""
    is_open: bool = False
    """Whether it asks for no key."""


def described(summary: str, body: Content | None = None, reply: Content | None = None, **more: Any) -> dict[str, Any]:
    """Arguments of a route; `more` as in `Description`."""
    return {"openapi_extra": {PLACE: Description(summary, body, reply, **more)}}
