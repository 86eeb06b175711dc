"""Values as columns hold them: times and JSON as text; what could not come back as it was is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from landrace.errors import DataError


def stamp(moment: datetime) -> str:
    """UTC with a fixed width, so that text order is time order and the first ten characters are the day."""
    if moment.tzinfo is None:
        raise DataError(f"The time {moment} has no time zone.", hint="Use utc_now().")
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def stamp_or_none(moment: datetime | None) -> str | None:
    return None if moment is None else stamp(moment)


def moment_or_none(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def plain_text(value: str) -> str:
    """As a database takes it: in text, a file name's bytes that are not UTF-8 are spelled out, in JSON as JSON does."""
    return value.encode("utf-8", "backslashreplace").decode()


def json_text(value: Mapping[str, Any]) -> str:
    try:
        return plain_text(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"A value cannot be written as JSON: {error}.") from error


def check_finite(name: str, value: float | None) -> None:
    # SQLite would quietly store NaN as NULL.
    if value is not None and not math.isfinite(value):
        raise DataError(f"{name} is {value}; the ledger stores finite numbers only.")


def check_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DataError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")
