"""Gated residual streams around one branch, for every backend."""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.ops import Ops, X
from landrace.models.params import Linear, Norm
from landrace.models.spec import GatedStreams


class GatedHead(nn.Module):
    """The mean of the streams, each normalised and each of its values times the sigmoid of its own gate; gates come out
    of all streams through a projection of low rank."""

    def __init__(self, spec: GatedStreams, d_model: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.count = spec.count
        width = spec.count * d_model
        self.norm = Norm(width, eps, groups=spec.count)
        self.mix_down = Linear(width, spec.rank, False, dtype)
        self.mix_up = Linear(spec.rank, width, False, dtype, "out")

    def forward(self, streams: X, ops: Ops[X]) -> X:
        normed = ops.norm(streams, self.norm)
        (low,) = ops.linears(normed, [self.mix_down])
        return self.mixed(normed, low, ops)

    def mixed(self, normed: X, low: X, ops: Ops[X]) -> X:
        (gates,) = ops.linears(ops.activate(low, "silu", inner=1 / self.count), [self.mix_up])
        return ops.collapse_gated(normed, gates, self.count)


class GatedBlock(GatedHead):
    """The same for a branch, whose result goes to each stream times 2 sigmoid(y / count), with y a projection of all
    streams."""

    def __init__(self, spec: GatedStreams, d_model: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__(spec, d_model, eps, dtype)
        self.inject = Linear(spec.count * d_model, spec.count, False, dtype)

    def collapse(self, streams: X, ops: Ops[X]) -> tuple[X, X]:
        """What the branch takes, and the weights for its result."""
        normed = ops.norm(streams, self.norm)
        low, inject = ops.linears(normed, [self.mix_down, self.inject])
        weights = ops.activate(inject, "sigmoid", inner=1 / self.count, outer=2.0)
        return self.mixed(normed, low, ops), weights

    def spread(self, streams: X, branch: X, weights: X, ops: Ops[X]) -> X:
        return ops.spread(streams, branch, weights, self.count, first=0, mixes=False)
