"""`StepTimes`: what rows cost, learnt from the steps that were."""

from __future__ import annotations

from bisect import bisect, insort

ROW = 0.2
"""What a row adds to a step of one, in parts of it, as long as steps of one size only are known."""
MEMORY = 8
"""So many steps of one size make up the estimate of it."""
OUTLIER = 2.0
"""What took longer than so many times the estimate counts as that."""


class StepTimes:
    """How long a step of so many rows takes.

    Every machine, form of weights and kind of layer has prices of its own: weights that are read once for all rows make
    more rows nearly free, experts that each row chooses for itself do not.
    """

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._seconds: dict[int, float] = {}
        self._counts: dict[int, int] = {}

    @property
    def most_rows(self) -> int:
        """The largest step worth an estimate: twice the largest measured. 0 before the first."""
        return 2 * self._rows[-1] if self._rows else 0

    def note(self, rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""
        if self._rows:
            known = self.seconds(rows)
            count = self._counts[rows] = min(self._counts.get(rows, 0) + 1, MEMORY)
            seconds = known + (min(seconds, OUTLIER * known) - known) / count
        if rows not in self._seconds:
            insort(self._rows, rows)
        self._seconds[rows] = seconds

    def seconds(self, rows: int) -> float:
        """An estimate on straight lines between the sizes measured and, from the smallest to the largest, beyond them.

        Needs one step that was measured.
        """
        known = self._seconds.get(rows)
        if known is not None:
            return known
        place = bisect(self._rows, rows)
        if 0 < place < len(self._rows):
            low, high = self._rows[place - 1], self._rows[place]
        else:
            low, high = self._rows[0], self._rows[-1]
        first = self._seconds[low]
        slope = (self._seconds[high] - first) / (high - low) if high > low else ROW * first / (1 + ROW * (low - 1))
        return first + max(slope, 0.0) * (rows - low)
