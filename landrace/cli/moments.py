"""Times as people write them on the command line: a day, a time, or how long ago or ahead."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Literal

from landrace.errors import OptionError

_SPAN = re.compile(r"(\d{1,6})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def moment_of(option: str, text: str, *, span: Literal["ago", "ahead"] = "ago", end_of_day: bool = False) -> datetime:
    """A span such as `90d`, `12h`, `30m` or `2w` from now; a day, or a time, of UTC where it names no zone.

    `end_of_day`: a day means its end. Raises OptionError.
    """
    now = datetime.now(UTC)
    try:
        if found := _SPAN.fullmatch(text):
            length = timedelta(**{_UNITS[found[2]]: int(found[1])})
            return now - length if span == "ago" else now + length
        moment = datetime.fromisoformat(text)
        if end_of_day and _DAY.fullmatch(text):
            moment += timedelta(days=1)
    except (ValueError, OverflowError) as error:
        raise OptionError(
            f"{option} cannot read {text!r}.", hint="Write a span such as 90d or 12h, or a day such as 2026-01-31."
        ) from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
