"""Reads the body of a call: bytes into a checked request."""

from __future__ import annotations

import math
import re
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from landrace.server.http.errors import ApiError, FieldError, field_error, field_path
from landrace.server.http.json_body import loads

MAX_DEPTH = 64
"""Levels of lists and objects in a body."""

_JSON = re.compile(r"application/([\w.!#$&^-]+\+)?json", re.IGNORECASE)
_NOT_AN_OBJECT = "The body must be a JSON object, sent with Content-Type: application/json."

RequestT = TypeVar("RequestT", bound=BaseModel)


async def read_body(http: Request, *, any_type: bool = False) -> bytes:
    """The bytes of the call's body. Raises ApiError where it is not sent as JSON; with `any_type`, only where a page of
    the web may have sent it."""
    media_type = http.headers.get("content-type", "").partition(";")[0].strip()
    # Besides being wrong, other types are what a page of another site can send without asking this server first.
    if _JSON.fullmatch(media_type) is None and not (any_type and "origin" not in http.headers):
        raise ApiError(400, _NOT_AN_OBJECT, code="invalid_content_type")
    return await http.body()


def parse_request(raw: bytes, kind: type[RequestT]) -> RequestT:
    """The body as a `kind`. Raises ApiError and FieldError."""
    return checked_request(loads(raw), kind)


def checked_request(body: Any, kind: type[RequestT]) -> RequestT:
    """As `parse_request`, from what the JSON says. Refuses what JSON can write but no field means."""
    if not isinstance(body, dict):
        raise ApiError(400, _NOT_AN_OBJECT, code="invalid_type")
    for name, value in body.items():
        if not _is_text(name):
            raise ApiError(400, "The name of a field is not valid Unicode text.", code="unknown_parameter")
        _check(value, (name,))
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise field_error(error.errors(include_url=False)[0]) from error


def _check(value: Any, path: tuple[str | int, ...]) -> None:
    """Refuses half characters, numbers that are none, and what is nested without end."""
    if isinstance(value, str):
        if not _is_text(value):
            field = field_path(path)
            raise FieldError(f"{field} is not valid Unicode text: it has a lone surrogate.", field=field)
    elif isinstance(value, float):
        if not math.isfinite(value):
            field = field_path(path)
            raise FieldError(f"{field} is not a finite number.", field=field)
    elif isinstance(value, (list, dict)):
        if len(path) > MAX_DEPTH:
            raise FieldError(f"{path[0]} is nested deeper than {MAX_DEPTH} levels.", field=str(path[0]))
        if isinstance(value, list):
            for index, item in enumerate(value):
                if type(item) is not int:  # a prompt may be a million of them
                    _check(item, (*path, index))
            return
        for key, item in value.items():
            if not _is_text(key):
                field = field_path(path)
                raise FieldError(f"A key in {field} is not valid Unicode text.", field=field)
            _check(item, (*path, key))


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
