"""Rows that cannot be used, gathered into one error: one bad row does not hide the next."""

from __future__ import annotations

from landrace.errors import DataError

_REASONS = 5
"""Reasons that the error gives; rows beyond them are counted."""
_PLACES = 3
"""Rows named for each reason."""


class Faults:
    """Collects the errors of rows; `raise_any` raises them as one DataError."""

    def __init__(self) -> None:
        self._first: DataError | None = None
        self._reason = ""
        self._count = 0
        self._places: dict[str, list[str]] = {}
        self._more: dict[str, int] = {}

    def add(self, where: str, error: DataError) -> None:
        """`where` is the row's file and line, with which the error's message begins."""
        self._count += 1
        reason = error.message.removeprefix(f"{where}: ")
        if self._first is None:
            self._first, self._reason = error, reason
            return
        if reason not in self._places and len(self._places) == _REASONS:
            return
        places = self._places.setdefault(reason, [])
        if len(places) < _PLACES:
            places.append(where.rpartition(", ")[2])
        else:
            self._more[reason] = self._more.get(reason, 0) + 1

    def raise_any(self) -> None:
        """The first error as it is; if there are more, the number of them and where and why, reason by reason."""
        if self._first is None:
            return
        if self._count == 1:
            raise self._first
        reasons = [self._told(reason, places) for reason, places in self._places.items()]
        told = sum(map(len, self._places.values())) + sum(self._more.values())
        if told < self._count - 1:
            reasons.append(f"{self._count - 1 - told} more for other reasons")
        raise DataError(
            f"{self._first.message} Further rows that cannot be used: {self._count - 1}; {'; '.join(reasons)}.",
            hint=self._first.hint,
        ) from self._first

    def _told(self, reason: str, places: list[str]) -> str:
        more = self._more.get(reason)
        why = "the same" if reason == self._reason else reason.rstrip(".")
        return f"{', '.join(places)}{f' and {more} more' if more else ''}: {why}"
