"""`SamplingRule`: how one token is chosen from a row of logits x [vocab], whichever kernels choose it.

1. temperature 0: the most likely token, the lowest id among equals. Otherwise x / temperature, then
2. top-k: what is less likely than the k-th most likely token is dropped;
3. top-p (Holtzman et al., 2020), over what is left: the fewest of the most likely tokens that reach p stay;
4. min-p (Nguyen et al., 2024): what is less likely than min_p times the most likely token is dropped.

Every filter is a threshold on x / temperature, so equal tokens stay or go together. A uniform number from [0, 1)
chooses among what is left: the token in whose share it falls, with shares laid end to end in order of id.

A row may have a mask, int32 [n]: token i may be chosen where bit i % 32 of word i / 32 is set, and none beyond the last
word. All of the above is then about those that may be chosen.
"""

from __future__ import annotations

from typing import NamedTuple

NOT_FINITE = -1
"""Chosen for a row that holds NaN or +infinity, or no finite logit that may be chosen."""


class SamplingRule(NamedTuple):
    """One request's numbers; ranges as in `SamplingParams`."""

    temperature: float
    """0: the most likely token."""
    top_k: int = 0
    """0: off."""
    top_p: float = 1.0
    """1: off."""
    min_p: float = 0.0
    """0: off."""


GREEDY = SamplingRule(temperature=0.0)
