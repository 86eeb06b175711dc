"""Columns under other names: `--map old=new` reads the file's column `old` as `new`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from landrace.errors import DataError, OptionError


def parse_map(texts: Iterable[str]) -> dict[str, str]:
    """The file's names to the names they are read as, from texts "old=new". OptionError for anything else."""
    names: dict[str, str] = {}
    for text in texts:
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise OptionError(f"--map needs OLD=NEW, not {text!r}.", hint="Write --map question=prompt, say.")
        if old in names:
            raise OptionError(f"--map names the column '{old}' twice.")
        names[old] = new
    check_map(names)
    return names


def check_map(names: Mapping[str, str]) -> None:
    """OptionError if two columns would get the same name."""
    taken: set[str] = set()
    for new in names.values():
        if new in taken:
            raise OptionError(f"--map reads two columns as '{new}'.")
        taken.add(new)


class Columns:
    """Renames the columns of each row, and knows in the end which of them never came."""

    def __init__(self, names: Mapping[str, str]) -> None:
        check_map(names)
        self._names = names
        self._missing = dict.fromkeys(names)
        self._any_row = False

    def rename(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The row under the new names; DataError if it has a column of such a name already."""
        self._any_row = True
        renamed = {}
        for old, value in values.items():
            self._missing.pop(old, None)
            new = self._names.get(old, old)
            if new in renamed or (new != old and new in values and new not in self._names):
                raise DataError(
                    f"{where}: the column '{old}' cannot be read as '{new}': the row has a '{new}' already.",
                    hint=f"Give the other one another name too: --map {new}=NAME.",
                )
            renamed[new] = value
        return renamed

    def check_found(self, file: str) -> None:
        """DataError if there were rows, and a column to be renamed was in none."""
        if self._missing and self._any_row:
            old = next(iter(self._missing))
            raise DataError(
                f"{file}: no row has the column '{old}' that --map names.",
                hint=f"The file's own name comes first: --map OLD={self._names[old]}.",
            )
