"""JSON from the bytes of a body, read without stopping other threads."""

from __future__ import annotations

import json
from collections.abc import Callable
from json import scanner
from typing import Any

from landrace.server.http.errors import ApiError

MAX_VALUES = 2**19
"""Most arrays, objects, strings and numbers of a body: what a conversation of 100,000 messages has, and more."""
LONG_BODY = 2**16
"""Bytes from which a body is read by `_Decoder`."""


def loads(raw: bytes) -> Any:
    """What the JSON says. ApiError for what is none, for a name twice in an object, and for too many values."""
    try:
        text = raw.decode(json.detect_encoding(raw), errors="surrogatepass")
        if len(raw) < LONG_BODY:
            return json.loads(text, object_pairs_hook=_without_repeats)
        return _Decoder().decode(text)
    except RecursionError as error:
        raise _no_json("it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise _no_json(f"{error.msg} (character {error.pos})") from error
    except UnicodeDecodeError as error:
        raise _no_json("it is not UTF-8") from error
    except ValueError as error:  # Python reads no whole number of more than some thousand digits
        raise _no_json("a number in it has too many digits") from error


def _no_json(reason: str) -> ApiError:
    return ApiError(400, f"The body is not valid JSON: {reason}.", code="invalid_json")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ApiError(400, f"The body gives {twice!r} twice in one object.", code="invalid_json")
    return found


class _Decoder(json.JSONDecoder):
    """The decoder of the standard library in its Python form, which lets other threads run between two values where
    the C form keeps the interpreter's lock to the end. It stops after `MAX_VALUES`."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=_without_repeats)
        self._left = MAX_VALUES
        for name in ("parse_object", "parse_array", "parse_string", "parse_int", "parse_float"):
            setattr(self, name, self._counted(getattr(self, name)))
        self.scan_once = scanner.py_make_scanner(self)  # type: ignore[attr-defined]

    def _counted(self, parse_value: Callable[..., Any]) -> Callable[..., Any]:
        def parse_one(*arguments: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise ApiError(413, f"The body has more than {MAX_VALUES:,} values.", code="request_too_large")
            return parse_value(*arguments)

        return parse_one
