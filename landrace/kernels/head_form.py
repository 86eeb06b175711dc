"""What is done to queries and keys besides rotating them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class QkNorm:
    """How queries and keys are normalised.

    rms over a head has one weight [head_dim] for q and one for k; over all heads, one of their joint width and one mean
    square for all of them (MiniMax-M2). l2 is an RMS norm without a weight, over a head (Llama 4).
    """

    when: Literal["before_rope", "after_rope"]
    kind: Literal["rms", "l2"] = "rms"
    over: Literal["head", "all_heads"] = "head"


@dataclass(frozen=True)
class Temperature:
    """q is multiplied by 1 + scale * log(1 + floor((position + 1) / floor)) (Llama 4, in layers without rotation)."""

    scale: float
    floor: int
