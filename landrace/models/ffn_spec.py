"""What works on each position alone in a layer, as frozen facts."""

from __future__ import annotations

from dataclasses import dataclass

from landrace.kernels.activation import SWIGLU, Activation
from landrace.kernels.router import Router


@dataclass(frozen=True)
class Dense:
    """down(activation(gate(x), up(x)))."""

    d_hidden: int
    bias: bool = False
    activation: Activation = SWIGLU


@dataclass(frozen=True)
class Latent:
    """Experts work on a projection of the input, and what they make of it is projected back (Kimi-K3)."""

    width: int
    normed: bool = True
    """The sum of their results is normalised before that."""


@dataclass(frozen=True)
class Moe:
    """A mixture of experts: the sum of the chosen experts' results, each times what it is worth, plus a shared one."""

    n_experts: int
    d_hidden: int
    router: Router
    bias: bool = False
    """Experts' projections have biases."""
    activation: Activation = SWIGLU
    shared: Dense | None = None
    """An expert that every token goes to."""
    shared_gate: bool = False
    """The shared expert's result is multiplied by sigmoid of one projection of the input (Qwen2-MoE)."""
    weight_on_input: bool = False
    """What an expert is worth multiplies its input, not its result (Llama 4)."""
    latent: Latent | None = None
    """What the experts work on, beside the shared one and the router, instead of the input itself."""


Ffn = Dense | Moe
