"""How a mixture of experts chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Router:
    """Which experts a token goes to and what their results are worth.

    softmax, sigmoid and sqrt_softplus score every expert by its logit and take the best `top_k`; softmax_of_chosen
    and sigmoid_of_chosen take the best `top_k` logits and score those alone. Equal scores: the expert with the lower
    number first.
    """

    top_k: int
    score: Literal["softmax", "sigmoid", "sqrt_softplus", "softmax_of_chosen", "sigmoid_of_chosen"] = "softmax"
    bias: bool = False
    """The logits have a bias."""
    choice_bias: bool = False
    """Added to the scores for the choice alone; the chosen are worth their own scores (DeepSeek-V3)."""
    renorm: bool = False
    """The scores of the chosen are divided by their sum."""
    renorm_floor: float = 0.0
    """The sum counts as at least this much (ERNIE)."""
    renorm_added: float = 1e-20
    """Added to the sum, so that 0 is not divided by 0 (DeepSeek-V3)."""
    scale: float = 1.0
    """Factor on what the chosen are worth."""
    n_groups: int = 1
    """Experts are chosen from the best `top_groups` of so many groups of neighbours."""
    top_groups: int = 1
    group_score: Literal["max", "top2_sum"] = "max"
    """A group's score, choice bias included: that of its best expert (DeepSeek-V2) or of its best two (DeepSeek-V3)."""
    by_token: bool = False
    """The experts of a token are read from a table [vocabulary, top_k] (the first layers of DeepSeek-V4); scores say
    what they are worth."""
