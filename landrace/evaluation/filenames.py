"""File names made of names: a task's or a model's name is data, and never a path."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from landrace.errors import OptionError

MAX_BYTES = 120
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)


def file_stem(name: str) -> str:
    """A file name without suffix for any name: letters, digits, dot, dash and underscore, at most MAX_BYTES of them.

    It is neither empty nor hidden, holds no separator, and is none of the names that Windows keeps for devices.
    """
    stem = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", name))
    stem = stem.encode("utf-8", "replace")[:MAX_BYTES].decode("utf-8", "ignore").strip(".-") or "unnamed"
    return f"_{stem}" if _RESERVED.fullmatch(stem) else stem


def check_distinct(names: Iterable[str], what: str) -> None:
    """Refuse names whose files would be one and the same, also where a disk takes `A` for `a`."""
    seen: dict[str, str] = {}
    for name in names:
        key = file_stem(name).casefold()
        if key in seen:
            other = f"'{seen[key]}'" + ("" if seen[key] == name else f" and '{name}'")
            raise OptionError(
                f"Two {what}s are called {other}, and would write the same files.", hint=f"Rename a {what}."
            )
        seen[key] = name
