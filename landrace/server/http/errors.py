"""Errors in the OpenAI API's shape, {"error": {"message", "type", "param", "code"}}; other APIs have their own
(`error_shapes.py`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from landrace.errors import DeadlineError, LandraceError, OutOfMemoryError, PromptTooLongError, RequestError
from landrace.server.engines.process import EngineBusyError, EngineStoppedError
from landrace.server.http import error_shapes

_MAX_MESSAGE = 500
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_KINDS: Mapping[type, str] = {
    str: "a text",
    list: "a list",
    dict: "an object",
    int: "a whole number",
    bool: "true or false",
}
_PLACE = "landrace.error"
CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
"""The code by which clients know that they must shorten a conversation."""


class FieldError(RequestError):
    """A field of a call cannot be honoured. `code` is the API's word for the reason."""

    def __init__(
        self, message: str, *, field: str | None, code: str = "invalid_value", hint: str | None = None
    ) -> None:
        super().__init__(message, field=field, hint=hint)
        self.code = code


def require_type(value: object, kind: type, field: str) -> None:
    """Raises FieldError unless `value` is a `kind`: str, list, dict, int or bool."""
    if not isinstance(value, kind):
        raise FieldError(f"{field} must be {_KINDS[kind]}.", field=field, code="invalid_type")


class ApiError(Exception):
    """An error with its HTTP status, and headers of its own."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`retry_after`: seconds until the call is worth sending again."""
        super().__init__(message)
        self.status = status
        self.body = error_body(status, message, param=param, code=code)
        again = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self.headers = {**(headers or {}), **again}


def error_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """A message and a field's name may quote what the client sent, so they are cut to a readable length."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    param = None if param is None else _cut(param)
    return {"error": {"message": _cut(message), "type": kind, "param": param, "code": code}}


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]} ..."


def shaped(error: ApiError | LandraceError) -> ApiError:
    """A RequestError that names a field is the client's to mend (400); anything else is not."""
    if isinstance(error, ApiError):
        return error
    message = f"{error.message} {error.hint}" if error.hint else error.message
    if isinstance(error, FieldError):
        return ApiError(400, message, param=error.field, code=error.code)
    if isinstance(error, RequestError) and error.field is not None:
        code = CONTEXT_LENGTH_EXCEEDED if isinstance(error, PromptTooLongError) else "invalid_value"
        return ApiError(400, message, param=error.field, code=code)
    if isinstance(error, DeadlineError):
        return ApiError(504, message, code="deadline_exceeded")
    if isinstance(error, EngineBusyError):
        return ApiError(429, message, code="rate_limit_exceeded")
    if isinstance(error, OutOfMemoryError):
        return ApiError(503, message, code="out_of_memory", retry_after=1)
    if isinstance(error, EngineStoppedError):
        return ApiError(503, message, code=error.code, retry_after=error.retry_after)
    return ApiError(500, message)


def note_error(scope: Scope, error: ApiError) -> None:
    """For logs: the call ends with this error."""
    told = error.body["error"]
    scope[_PLACE] = told["code"] or told["type"]


def error_of(scope: Scope) -> str | None:
    """The code of the error that the call ended with, or its type where it has none; None: it ended well."""
    found: str | None = scope.get(_PLACE)
    return found


def field_path(parts: Sequence[str | int]) -> str:
    """Where a value lies in a body, as the API writes it: `messages[2].content`."""
    first, *inner = parts
    return str(first) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inner)


def field_error(error: Mapping[str, Any]) -> FieldError:
    """One of pydantic's errors in a sentence of our own."""
    kind, field = error["type"], field_path(error["loc"])
    if kind == "extra_forbidden":
        return FieldError(f"There is no field {field!r} here.", field=field, code="unknown_parameter")
    if kind == "missing":
        return FieldError(f"The field {field!r} is required.", field=field, code="missing_required_parameter")
    if kind == "value_error":  # ours, with a message of its own
        return FieldError(str(error["ctx"]["error"]), field=field)
    code = "invalid_type" if kind.endswith("_type") else "invalid_value"
    return FieldError(f"{field}: {error['msg']}.", field=field, code=code)


def install(app: FastAPI) -> None:
    """Gives every failure of `app` the API's shape."""
    app.add_middleware(_Unexpected)

    @app.exception_handler(ApiError)
    async def _api(_: Request, error: ApiError) -> Response:
        return _response(error)

    @app.exception_handler(LandraceError)
    async def _landrace(_: Request, error: LandraceError) -> Response:
        return _response(shaped(error))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        path, method, headers = request.url.path, request.method, dict(error.headers or {})
        if error.status_code == 405 and method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": f"{headers['Allow']}, OPTIONS"})
        messages = {404: f"There is nothing at {path}.", 405: f"{path} does not take {method}."}
        codes = {
            404: "unknown_url",
            405: "method_not_supported",
            408: "request_timeout",
            413: "request_too_large",
        }
        message = messages.get(error.status_code, str(error.detail))
        return _response(ApiError(error.status_code, message, code=codes.get(error.status_code), headers=headers))


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """The reply of a middleware that lets a call go no further."""
    await _response(error)(scope, receive, send)


class _Unexpected:
    """ASGI middleware: a bug's reply has the API's shape and keeps its details to the log, where they go when it is
    raised again. It lies inside of what adds headers to every reply, which Starlette's own place for this does not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except ClientDisconnect:  # in the middle of its body: nobody is there to read a reply
            return
        except Exception:
            if not begun:
                failed = ApiError(500, "The server failed to answer this call; its log says why.")
                await refuse(failed, scope, receive, send)
            raise


class _ErrorResponse(Response):
    """An error in the shape that belongs to the path that was called. Messages quote what was sent, which may hold lone
    surrogates: they cannot be written as UTF-8, but as ASCII."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(status_code=error.status)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        note_error(scope, self._error)
        status, body = error_shapes.of_path(scope["path"], self._error.status, self._error.body)
        content = json.dumps(body).encode("ascii")
        await Response(content, status, self._error.headers, "application/json")(scope, receive, send)


def _response(error: ApiError) -> Response:
    return _ErrorResponse(error)
