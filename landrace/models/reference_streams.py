"""`ReferenceStreams`: the reference's operations on residual streams."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from landrace.kernels.reference.ngrams import gated_values
from landrace.kernels.reference.streams import collapsed, spread, stream_weights
from landrace.kernels.streams import HyperConnections
from landrace.models.params import StreamWeights


class ReferenceStreams:
    """See `Ops`."""

    def gated_values(self, keys: Tensor, queries: Tensor, values: Tensor, count: int) -> Tensor:
        return gated_values(keys, queries, values, count)

    def add(self, into: Tensor, x: Tensor) -> Tensor:
        return into + x

    def widen(self, x: Tensor, count: int) -> Tensor:
        return x.repeat(1, count)

    def stream_weights(self, streams: Tensor, weights: StreamWeights, form: HyperConnections) -> Tensor:
        return stream_weights(streams, weights.weight, weights.base, weights.scale, form, weights.eps)

    def collapse(self, streams: Tensor, count: int, weights: Tensor | None) -> Tensor:
        return collapsed(streams, count, weights)

    def collapse_gated(self, streams: Tensor, gates: Tensor, count: int) -> Tensor:
        return collapsed(streams * gates.sigmoid(), count)

    def spread(
        self, streams: Tensor, branch: Tensor, weights: Tensor, count: int, *, first: int, mixes: bool
    ) -> Tensor:
        return spread(streams, branch, weights, count, first, mixes)

    def activate(self, x: Tensor, kind: Literal["silu", "sigmoid"], *, inner: float, outer: float = 1.0) -> Tensor:
        y = F.silu(inner * x) if kind == "silu" else torch.sigmoid(inner * x)
        return y if outer == 1.0 else outer * y
