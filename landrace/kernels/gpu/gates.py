"""The gate of a feed-forward layer, for the kernels that end in one (see `Activation`)."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tanh(x):
    return 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x))


@triton.jit
def gated(gate, up, limit, alpha, KIND: tl.constexpr):
    """A float32 gate and up as one."""
    if KIND == "swiglu":
        return gate / (1.0 + tl.exp(-gate)) * up
    elif KIND == "clamp_after":
        return tl.minimum(gate / (1.0 + tl.exp(-gate)), limit) * tl.clamp(up, -limit, limit)
    elif KIND == "clamp_before":
        gate = tl.minimum(gate, limit)
        return gate / (1.0 + tl.exp(-gate)) * tl.clamp(up, -limit, limit)
    elif KIND == "situ":
        bounded = limit < float("inf")
        bound = tl.where(bounded, limit, 1.0)
        up = tl.where(bounded, bound * _tanh(up / bound), up)
        return alpha * _tanh(gate / alpha) / (1.0 + tl.exp(-gate)) * up
    else:  # oai
        gate = tl.minimum(gate, limit)
        return gate / (1.0 + tl.exp(-alpha * gate)) * (tl.clamp(up, -limit, limit) + 1.0)
