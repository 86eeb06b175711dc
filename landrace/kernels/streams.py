"""How several residual streams become one row for a branch and take its result, as frozen facts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HyperConnections:
    """Streams are weighted by functions of all of them (Zhu et al., 2024).

    A branch takes their sum, each times sigmoid(y) + eps. Its result goes back to each times post_factor * sigmoid(y) +
    post_eps. Where they mix, each first becomes a sum of all of them by a matrix whose rows and columns sum to 1
    (Xie et al., 2026). y are products with the streams, normalised together, times a scale for each of the three, plus
    a bias.
    """

    count: int
    eps: float
    post_factor: float = 2.0
    post_eps: float = 0.0
    iterations: int = 0
    """How often the columns, and the rows between, are divided by their sums (Sinkhorn and Knopp, 1967); 0: streams do
    not mix."""

    @property
    def mixes(self) -> bool:
        return self.iterations > 0
