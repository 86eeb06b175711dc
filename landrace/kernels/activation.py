"""How the two halves of a gated layer become one, and what a gate is before it multiplies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Gate = Literal["silu", "sigmoid"]
Pointwise = Literal["silu", "sigmoid", "gelu", "gelu_tanh", "relu", "tanh"]
"""What becomes of a value by itself. gelu: x Phi(x), Phi the normal distribution's (Hendrycks and Gimpel, 2016);
gelu_tanh: the same by tanh."""


@dataclass(frozen=True)
class Activation:
    """How a gate g and an up u become one.

    swiglu: silu(g) * u (Shazeer, 2020). clamp_before: silu(min(g, limit)) * clamp(u, +-limit). clamp_after:
    min(silu(g), limit) * clamp(u, +-limit) (Step-3.5). oai: with g and u clamped as in clamp_before,
    g * sigmoid(alpha * g) * (u + 1) (gpt-oss). situ: alpha * tanh(g / alpha) * sigmoid(g) * limit * tanh(u / limit), or
    u itself without a limit (Kimi-K3).
    """

    kind: Literal["swiglu", "clamp_before", "clamp_after", "oai", "situ"] = "swiglu"
    limit: float = float("inf")
    alpha: float = 1.0


SWIGLU = Activation()
