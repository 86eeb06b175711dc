"""Hyper-connections around one branch, for every backend."""

from __future__ import annotations

from torch import nn

from landrace.kernels.streams import HyperConnections
from landrace.models.ops import Ops, X
from landrace.models.params import StreamWeights


class HyperBlock(nn.Module):
    def __init__(self, form: HyperConnections, d_model: int, eps: float) -> None:
        super().__init__()
        self.form = form
        self.weights = StreamWeights(form.count, d_model, eps, 3 if form.mixes else 2)

    def collapse(self, streams: X, ops: Ops[X]) -> tuple[X, X]:
        """What the branch takes, and the weights for its result."""
        weights = ops.stream_weights(streams, self.weights, self.form)
        return ops.collapse(streams, self.form.count, weights), weights

    def spread(self, streams: X, branch: X, weights: X, ops: Ops[X]) -> X:
        return ops.spread(streams, branch, weights, self.form.count, first=self.form.count, mixes=self.form.mixes)


class HyperHead(nn.Module):
    """What the output head takes: the sum of the streams, each times its weight, or their mean."""

    def __init__(self, form: HyperConnections, d_model: int, eps: float, weighted: bool) -> None:
        super().__init__()
        self.form = form
        self.weights = StreamWeights(form.count, d_model, eps, 1) if weighted else None

    def forward(self, streams: X, ops: Ops[X]) -> X:
        if self.weights is None:
            return ops.collapse(streams, self.form.count, None)
        return ops.collapse(streams, self.form.count, ops.stream_weights(streams, self.weights, self.form))
