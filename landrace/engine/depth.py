"""`Depth`: how far ahead a model's guesses go, by how often they are right and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

from landrace.engine.step_times import StepTimes

ODDS = 0.7
"""That a guess is right if those before it were, until guesses were seen."""
TRIALS = 4
"""So many guesses count as much as the odds that a request began with."""
MEMORY = 64
"""So many guesses count."""
MARGIN = 1.05
"""A draft is to make so many times as many tokens a second."""
PROBE = 64
"""After so many steps without a draft one guess is tried: the text may have become easier."""


class Odds:
    """How likely a guess is right, from the latest."""

    def __init__(self, value: float = ODDS) -> None:
        self.value = value
        self._trials = TRIALS

    def note(self, right: int, wrong: int) -> None:
        for outcome in (1.0,) * right + (0.0,) * wrong:
            self._trials = min(self._trials + 1, MEMORY)
            self.value += (outcome - self.value) / self._trials


class Depth:
    """Chooses what makes the most tokens a second."""

    def __init__(self, weight_share: float) -> None:
        """`weight_share`: what a guess reads of what a step reads, for a first idea of what it costs beside it."""
        self.times = StepTimes()
        """Of the passes that guess."""
        self._weight_share = weight_share
        self._silent = 0
        """Steps since the last draft."""

    def choose(self, odds: Sequence[float | None], rooms: Sequence[int], times: StepTimes) -> int:
        """How many tokens to guess ahead; 0 where that is not to guess.

        `odds`: of each request's guesses; None: it has none. `rooms`: most of each. `times`: what rows cost the model
        that judges them.
        """
        depth = self._choose(odds, rooms, times)
        self._silent = 0 if depth else self._silent + 1
        return depth

    def _choose(self, odds: Sequence[float | None], rooms: Sequence[int], times: StepTimes) -> int:
        rows = len(odds)
        plain = times.seconds(rows) if times.most_rows else 0.0
        guess = self.times.seconds(rows) if self.times.most_rows else self._weight_share * plain
        best, depth, right, guesses = MARGIN, 0, 0.0, 0
        for n in range(1, max(rooms, default=0) + 1):
            deep = [value for value, room in zip(odds, rooms, strict=True) if room >= n and value is not None]
            guesses += len(deep)
            if not deep or rows + guesses > times.most_rows:
                break
            right += sum(value**n for value in deep)
            faster = (1 + right / rows) * plain / (times.seconds(rows + guesses) + n * guess)
            if faster > best:
                best, depth = faster, n
        return depth or (1 if self._silent >= PROBE and guesses else 0)
