"""Errors in the API's own shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from landrace.errors import LandraceError, PromptTooLongError, RequestError
from landrace.server.engine_process import EngineBusyError, EngineStoppedError

_MAX_MESSAGE = 500
_NOT_AN_OBJECT = frozenset({"model_attributes_type", "model_type", "dict_type"})


class ApiError(Exception):
    """An error with its HTTP status."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, message, param=param, code=code)


def error_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """A message may quote what the client sent, so it is cut to a readable length."""
    kinds = {429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    if len(message) > _MAX_MESSAGE:
        message = f"{message[:_MAX_MESSAGE]} ..."
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def shaped(error: ApiError | LandraceError) -> ApiError:
    """A RequestError that names a field is the client's to mend (400); anything else is not."""
    if isinstance(error, ApiError):
        return error
    message = f"{error.message} {error.hint}" if error.hint else error.message
    if isinstance(error, PromptTooLongError):
        return ApiError(400, message, param=error.field, code="context_length_exceeded")
    if isinstance(error, RequestError) and error.field is not None:
        return ApiError(400, message, param=error.field)
    if isinstance(error, EngineBusyError):
        return ApiError(429, message, code="rate_limit_exceeded")
    if isinstance(error, EngineStoppedError):
        return ApiError(503, message, code="engine_stopped")
    return ApiError(500, message)


def describe(error: Mapping[str, Any]) -> tuple[str, str | None]:
    """The message and the field of one of pydantic's errors."""
    path = [str(part) for part in error["loc"] if part != "body"]
    field = path[0] if path else None
    if error["type"] == "json_invalid":
        return f"The body is not valid JSON: {error['ctx']['error']} (character {path[0]}).", None
    if field is None:
        if error["type"] in _NOT_AN_OBJECT:
            return "The body must be a JSON object, sent with Content-Type: application/json.", None
        return f"The request is not valid: {error['msg']}.", None
    if error["type"] == "extra_forbidden":
        name = ".".join(path)
        return f"There is no field {name!r} here.", name
    if error["type"] == "missing":
        return f"The field {field!r} is required.", field
    if error["type"] == "value_error":  # ours, with a message of its own
        return str(error["ctx"]["error"]), field
    return f"{'.'.join(path)}: {error['msg']}.", field


def install(app: FastAPI) -> None:
    """Gives every failure of `app` the API's shape."""

    @app.exception_handler(ApiError)
    async def _api(_: Request, error: ApiError) -> AsciiJSONResponse:
        return _response(error)

    @app.exception_handler(LandraceError)
    async def _landrace(_: Request, error: LandraceError) -> AsciiJSONResponse:
        return _response(shaped(error))

    @app.exception_handler(RequestValidationError)
    async def _validation(_: Request, error: RequestValidationError) -> AsciiJSONResponse:
        message, param = describe(error.errors()[0])
        return _response(ApiError(400, message, param=param))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> AsciiJSONResponse:
        messages = {
            404: f"There is nothing at {request.url.path}.",
            405: f"{request.url.path} does not take {request.method}.",
        }
        message = messages.get(error.status_code, str(error.detail))
        return _response(ApiError(error.status_code, message), error.headers)

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, __: Exception) -> AsciiJSONResponse:
        return _response(ApiError(500, "The server failed to answer this call; its log says why."))


class AsciiJSONResponse(JSONResponse):
    """Messages quote what was sent, which may hold lone surrogates: they cannot be written as UTF-8, but as ASCII."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode("ascii")


def _response(error: ApiError, headers: Mapping[str, str] | None = None) -> AsciiJSONResponse:
    return AsciiJSONResponse(error.body, error.status, dict(headers or {}))
