"""`Recent`: the answers of the last minutes, and how fast they were."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from landrace.ledger import Usage

WINDOW_SECONDS = 300
_MOST = 10_000
"""Answers that are remembered, however many the window has."""
_PERCENTS = (50, 90, 99)
_SLICE_SECONDS = 10
"""Of the window, for what is drawn over time."""


@dataclass(frozen=True)
class _Answer:
    at: float
    first_token: float | None
    token: float | None
    whole: float


class Recent:
    """`heard` may be called by one thread at a time; nothing of it grows with the number of calls."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answers: deque[_Answer] = deque(maxlen=_MOST)
        self._ends: Counter[str] = Counter()

    def heard(self, rows: Sequence[Usage]) -> None:
        """These requests have ended."""
        now = self._clock()
        for row in rows:
            self._ends[row.finish_reason] += 1
            self._answers.append(_Answer(now, row.first_token_seconds, _token_seconds(row), row.total_seconds))

    @property
    def ends(self) -> Mapping[str, int]:
        """How answers ended since the server started."""
        return dict(self._ends)

    def latency(self) -> dict[str, Any]:
        """Percentiles of the window in seconds; None where nothing was answered."""
        answers = self._within()
        return {
            "window_seconds": WINDOW_SECONDS,
            "answers": len(answers),
            "first_token": percentiles(one.first_token for one in answers),
            "token": percentiles(one.token for one in answers),
            "whole": percentiles(one.whole for one in answers),
        }

    def first_tokens(self) -> list[dict[str, Any]]:
        """The percentiles of first tokens in each slice of the window, oldest first."""
        now, slices = self._clock(), WINDOW_SECONDS // _SLICE_SECONDS
        found: list[list[float]] = [[] for _ in range(slices)]
        for one in self._within():
            if one.first_token is not None:
                found[min(int((now - one.at) / _SLICE_SECONDS), slices - 1)].append(one.first_token)
        return [
            {"seconds_ago": place * _SLICE_SECONDS, **percentiles(found[place])} for place in range(slices - 1, -1, -1)
        ]

    def _within(self) -> list[_Answer]:
        since = self._clock() - WINDOW_SECONDS
        return [one for one in list(self._answers) if one.at >= since]


def percentiles(values: Iterable[float | None]) -> dict[str, float | None]:
    """By the nearest rank, so that each is a value that was measured."""
    known = sorted(value for value in values if value is not None)
    return {f"p{percent}": known[-(-len(known) * percent // 100) - 1] if known else None for percent in _PERCENTS}


def _token_seconds(row: Usage) -> float | None:
    """From token to token, the mean of an answer; None for one of a single token."""
    if row.first_token_seconds is None or row.completion_tokens < 2:
        return None
    return (row.total_seconds - row.first_token_seconds) / (row.completion_tokens - 1)
