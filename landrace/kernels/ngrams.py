"""How the n-grams that end at a token are hashed into tables of embeddings, as frozen facts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NGrams:
    """For each n from 2 to the longest, so many tables. The last n tokens, each times a multiplier of its own (the last
    token's first), are joined by exclusive or; the remainder by a table's size is the row there (Qwen4-Exp).

    Before a sequence's first token, and before the last `filler` among the tokens before the row's own, every token
    counts as `filler`.
    """

    multipliers: tuple[int, ...]
    """As many as the longest has tokens; 64-bit."""
    sizes: tuple[int, ...]
    """Of the tables, shortest n-grams' first, one below another in a matrix."""
    filler: int

    @property
    def longest(self) -> int:
        return len(self.multipliers)

    @property
    def per_length(self) -> int:
        """Tables of each n."""
        return len(self.sizes) // (self.longest - 1)

    @property
    def n_before(self) -> int:
        """Tokens before a row's own that matter."""
        return self.longest - 1
