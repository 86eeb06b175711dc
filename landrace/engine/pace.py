"""`Pace`: what tokens of prompts cost beside running streams, so that a step stays within a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from landrace.engine.progress import Progress
from landrace.engine.step_times import OUTLIER, StepTimes

MIN_TOKENS = 8
"""A step has room for so many tokens of prompts, however long they take."""
MEMORY = 0.99
"""What a step counts after the next one, for how much dearer tokens far from the beginning are."""
EVEN = 16
"""A step with so many tokens of prompts counts as much as all before it, for how long everything takes now."""


class Pace:
    """Learns from the steps that were. A token at position p of a prompt takes `scale * (1 + slope * p)` seconds beyond
    what the streams of its step take: it attends to all before it, so the last tokens of a long prompt may take many
    times what the first take. `slope` is a fact of model and machine, `scale` changes with whatever else the machine
    does.
    """

    def __init__(self, seconds: float) -> None:
        """`seconds`: how long a step with streams should take, if they take no more than half of it; 0: any time."""
        self._seconds = seconds
        self.streams = StepTimes()
        """Of steps without prompts."""
        self._scale = self._slope = 0.0
        self._sums = [0.0] * 5

    @contextmanager
    def step(self, work: Sequence[Progress]) -> Iterator[None]:
        """Around the computation of a step, whose time it notes."""
        rows = [(progress.cached, progress.cached + progress.scheduled, progress.decodes) for progress in work]
        streams = sum(end - first for first, end, decodes in rows if decodes)
        streams += sum(len(progress.draft) for progress in work)
        started = time.perf_counter()
        yield
        self.note(streams, [(first, end) for first, end, decodes in rows if not decodes], time.perf_counter() - started)

    def note(self, streams: int, chunks: Iterable[tuple[int, int]], seconds: float) -> None:
        """A step took so long. `streams`: its tokens that belong to no prompt; `chunks`: from which position to which
        it computed prompts."""
        chunks = list(chunks)
        if not chunks:
            self.streams.note(streams, seconds)
            return
        tokens = float(sum(end - first for first, end in chunks))
        positions = sum((end - first) * (first + end - 1) / 2 for first, end in chunks)
        taken = max(0.0, seconds - self._plain(streams))
        if not self._scale:  # the first step also does what is done once
            self._scale = taken / tokens
            return
        taken = min(taken, OUTLIER * self._scale * (tokens + self._slope * positions))
        self._fit(tokens, positions, taken)
        newest = tokens / (tokens + EVEN)
        self._scale += newest * (taken / (tokens + self._slope * positions) - self._scale)

    def prices(self, streams: int, room: int) -> Callable[[int], float]:
        """What the token at a position of a prompt counts as, of `room` that a step has beside so many streams: at
        least 1, and more if as many as `room` would take too long."""
        if not (self._seconds and streams and self._scale and room > 0):
            return lambda position: 1.0
        plain = self._plain(streams)
        unit = (max(self._seconds, 2 * plain) - plain) / room
        dearest = max(1.0, room / MIN_TOKENS)
        return lambda position: min(max(1.0, self._scale * (1 + self._slope * position) / unit), dearest)

    def _plain(self, streams: int) -> float:
        """What a step of streams alone takes; 0 as long as there was none."""
        return self.streams.seconds(streams) if streams and self.streams.most_rows else 0.0

    def _fit(self, tokens: float, positions: float, taken: float) -> None:
        """The slope of the line that fits best, by least squares over what `MEMORY` keeps."""
        new = (tokens * tokens, tokens * positions, positions * positions, tokens * taken, positions * taken)
        self._sums = [MEMORY * old + added for old, added in zip(self._sums, new, strict=True)]
        tt, tp, pp, ty, py = self._sums
        flat, steep = ty * pp - py * tp, py * tt - ty * tp
        if tt * pp - tp * tp > 1e-3 * tt * pp and flat > 0:
            self._slope = max(0.0, steep / flat)
