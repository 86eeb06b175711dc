"""A request's body: JSON, read without stopping other threads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from json import scanner
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from landrace.server.errors import ApiError

MAX_VALUES = 2**19
"""Most arrays, objects, strings and numbers of a body: what a conversation of 100,000 messages has, and more."""
LONG_BODY = 2**16
"""Bytes from which a body is read by `_Decoder`."""

T = TypeVar("T", bound=BaseModel)


async def read_body(http: Request) -> bytes:
    """The bytes of the body. Raises RequestValidationError where it is not sent as JSON."""
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise RequestValidationError([{"type": "dict_type", "loc": ("body",), "msg": "not sent as JSON"}])
    return await http.body()


def parse(data: bytes, form: type[T]) -> T:
    """The body as `form`. Raises RequestValidationError, what the form's own checks raise, and ApiError(413)."""
    try:
        return form.model_validate(_loads(data))
    except ValidationError as error:
        wrong: Mapping[str, Any] = error.errors(include_url=False)[0]
    except json.JSONDecodeError as error:
        wrong = _not_json(error.msg, error.pos)
    except RecursionError:
        wrong = _not_json("it is nested too deeply", 0)
    except ValueError as error:  # bytes that are no text, or a number of thousands of digits
        wrong = _not_json(str(error), 0)
    raise RequestValidationError([{**wrong, "loc": ("body", *wrong["loc"])}])


def _not_json(reason: str, at: int) -> dict[str, Any]:
    return {"type": "json_invalid", "loc": (at,), "msg": "not JSON", "ctx": {"error": reason}}


def _loads(data: bytes) -> Any:
    text = data.decode(json.detect_encoding(data), errors="surrogatepass")
    return json.loads(text) if len(data) < LONG_BODY else _Decoder().decode(text)


class _Decoder(json.JSONDecoder):
    """The decoder of the standard library in its Python form, which lets other threads run between two values where
    the C form keeps the interpreter's lock to the end. It stops after `MAX_VALUES`."""

    def __init__(self) -> None:
        super().__init__()
        self._left = MAX_VALUES
        for name in ("parse_object", "parse_array", "parse_string", "parse_int", "parse_float"):
            setattr(self, name, self._counted(getattr(self, name)))
        self.scan_once = scanner.py_make_scanner(self)  # type: ignore[attr-defined]

    def _counted(self, parse_value: Callable[..., Any]) -> Callable[..., Any]:
        def parse_one(*arguments: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise ApiError(413, f"The body has more than {MAX_VALUES:,} values.")
            return parse_value(*arguments)

        return parse_one
