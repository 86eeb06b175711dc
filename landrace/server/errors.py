"""Errors in the API's own shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from landrace.errors import LandraceError, RequestError


class ApiError(Exception):
    """An error with its HTTP status."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, message, param=param, code=code)


def error_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def from_landrace(error: LandraceError) -> ApiError:
    """A RequestError is the client's to mend (400); anything else is the server's (500)."""
    message = f"{error.message} {error.hint}" if error.hint else error.message
    if isinstance(error, RequestError):
        return ApiError(400, message, param=error.field)
    return ApiError(500, message)


def _describe(error: dict[str, Any]) -> tuple[str, str | None]:
    path = [str(part) for part in error["loc"] if part != "body"]
    # Branches of a union show up in the path; the field itself is the first part.
    param = path[0] if path else None
    if error["type"] == "extra_forbidden":
        return f"Unknown field: {'.'.join(path)}.", ".".join(path)
    if error["type"] == "missing":
        return f"The field {param} is required.", param
    if error["type"] == "json_invalid":
        return "The body is not valid JSON.", None
    return f"{param}: {error['msg']}." if param else f"{error['msg']}.", param


def install(app: FastAPI) -> None:
    """Gives every failure of `app` the API's shape."""

    @app.exception_handler(ApiError)
    async def _api(_: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    @app.exception_handler(LandraceError)
    async def _landrace(_: Request, error: LandraceError) -> JSONResponse:
        shaped = from_landrace(error)
        return JSONResponse(shaped.body, shaped.status)

    @app.exception_handler(RequestValidationError)
    async def _validation(_: Request, error: RequestValidationError) -> JSONResponse:
        message, param = _describe(error.errors()[0])
        return JSONResponse(error_body(400, message, param=param), 400)

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code)
