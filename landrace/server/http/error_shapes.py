"""Errors in the words of the API whose path was called. The server's own are those of the OpenAI API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Body = dict[str, Any]

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def of_path(path: str, status: int, body: Body) -> tuple[int, Body]:
    """Status and body of a reply to `path`, where `status` and `body` are what the OpenAI API would say."""
    shape = next((shape for prefix, shape in _SHAPES.items() if path.startswith(prefix)), None)
    return (status, body) if shape is None else shape(status, body)


def anthropic(status: int, body: Body) -> tuple[int, Body]:
    """That an engine is away for now is 529 there."""
    status = 529 if status == 503 else status
    kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return status, {"type": "error", "error": {"type": kind, "message": _sentence(body)}}


def ollama(status: int, body: Body) -> tuple[int, Body]:
    """One sentence."""
    return status, {"error": _sentence(body)}


def _sentence(body: Body) -> str:
    """The message, which names the field where no other place does."""
    message, field = body["error"]["message"], body["error"]["param"]
    return message if field is None or field in message else f"{field}: {message}"


_SHAPES: Mapping[str, Callable[[int, Body], tuple[int, Body]]] = {"/v1/messages": anthropic, "/api/": ollama}
