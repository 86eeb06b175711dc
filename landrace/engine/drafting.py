"""`Drafting`: adds drafts to the steps of an engine where they make more tokens a second."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from landrace.engine.live import Live
from landrace.engine.options import EngineOptions
from landrace.engine.step_times import StepTimes


class Drafting:
    """Drafts for all requests of an engine, and what rows cost in it.

    A draft takes nothing from anybody: only a step that computes no prompts has any, they share what is left of its
    tokens, and each lies in the cache block that its request's last token needs anyway. What a rejected guess leaves
    there is overwritten by the token that takes its place, and no row sees it before.
    """

    def __init__(self, options: EngineOptions, max_length: int) -> None:
        self._block_size = options.block_size
        self._max_step_tokens = options.max_step_tokens
        self._max_length = max_length
        self._times = StepTimes()

    @contextmanager
    def step(self, lives: Sequence[Live]) -> Iterator[None]:
        """Around the computation of a step: these requests have their drafts in it, and its time tells what rows
        cost."""
        started = time.perf_counter()
        for live in lives:
            live.drafter.read()
        if any(live.progress.left > 1 for live in lives):
            yield
            return
        rows, expected = len(lives), float(len(lives))
        for live in lives:
            room = min(self._room(live), self._max_step_tokens - rows)
            live.progress.draft, right = live.drafter.draft(room, rows, expected, self._times)
            rows, expected = rows + len(live.progress.draft), expected + right
        yield
        self._times.note(rows, time.perf_counter() - started)

    def _room(self, live: Live) -> int:
        """Most tokens of a draft: to the end of the last token's block, and one less than the answer can still have,
        since every step chooses one itself."""
        progress = live.progress
        left = min(live.request.params.max_tokens - progress.n_output, self._max_length - progress.held)
        return min(-progress.held % self._block_size, left - 1)
