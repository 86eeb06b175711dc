"""Matrix products and the pointwise arithmetic around them."""

from __future__ import annotations

from math import isinf

import torch
import torch.nn.functional as F
from torch import Tensor

from landrace.kernels.activation import SWIGLU, Activation, Pointwise

_FEW_ROWS = 256


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [T, in] times weight [out, in] transposed, plus bias [out], all in x's dtype (sums in float32)."""
    weight = weight.to(x.dtype)
    bias = None if bias is None else bias.to(x.dtype)
    if x.dtype == torch.float32 and x.device.type == "cpu" and x.shape[0] <= _FEW_ROWS:
        y = _few_rows(x, weight)
        return y if bias is None else y + bias
    return F.linear(x, weight, bias)


def _few_rows(x: Tensor, weight: Tensor) -> Tensor:
    """The transposed product: a CPU's BLAS spreads the first operand's rows over its threads, and `weight` has more of
    them than x. One column alone would run on one thread, so it goes twice."""
    columns = torch.cat((x, x)) if x.shape[0] == 1 else x
    return (weight @ columns.t()).t()[: x.shape[0]].contiguous()


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps), times weight if there is one, over the last dimension, in float32 (Zhang and Sennrich,
    2019)."""
    return F.rms_norm(x.float(), (x.shape[-1],), weight, eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension, in float32 (Ba et al., 2016)."""
    return F.layer_norm(x.float(), (x.shape[-1],), weight, bias, eps)


def pointwise(x: Tensor, kind: Pointwise) -> Tensor:
    """See `Pointwise`."""
    match kind:
        case "silu":
            return F.silu(x)
        case "sigmoid":
            return torch.sigmoid(x)
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "relu":
            return F.relu(x)
        case "tanh":
            return torch.tanh(x)


def gated(gate: Tensor, up: Tensor, activation: Activation = SWIGLU) -> Tensor:
    """A gate and an up of one shape as one (see `Activation`)."""
    limit = activation.limit
    match activation.kind:
        case "swiglu":
            return F.silu(gate) * up
        case "clamp_before":
            return F.silu(gate.clamp(max=limit)) * up.clamp(-limit, limit)
        case "clamp_after":
            return F.silu(gate).clamp(max=limit) * up.clamp(-limit, limit)
        case "oai":
            gate = gate.clamp(max=limit)
            return gate * torch.sigmoid(activation.alpha * gate) * (up.clamp(-limit, limit) + 1)
        case "situ":
            up = up if isinf(limit) else limit * torch.tanh(up / limit)
            return activation.alpha * torch.tanh(gate / activation.alpha) * torch.sigmoid(gate) * up
