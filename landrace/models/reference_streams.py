"""`ReferenceStreams`: the reference's operations on residual streams, and on gates."""

from __future__ import annotations

import torch
from torch import Tensor

from landrace.kernels.activation import Gate, Pointwise
from landrace.kernels.reference.dense import pointwise, rms_norm
from landrace.kernels.reference.heads import gated_heads, gated_norm
from landrace.kernels.reference.ngrams import gated_values
from landrace.kernels.reference.streams import attended_blocks, collapsed, spread, stream_weights
from landrace.kernels.streams import HyperConnections
from landrace.models.mixer_spec import Gqa, Mla
from landrace.models.params import Norm, StreamWeights, Vector


class ReferenceStreams:
    """See `Ops`."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

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

    def start_block(self, x: Tensor, branch: Tensor) -> Tensor:
        self._sums.append(x)
        return branch.float()

    def attend_blocks(self, x: Tensor, scores: Vector, norm: Norm | None, eps: float) -> Tensor:
        return attended_blocks([*self._sums, x], scores.weight, None if norm is None else norm.weight, eps)

    def activate(self, x: Tensor, kind: Pointwise, *, inner: float, outer: float = 1.0) -> Tensor:
        y = pointwise(inner * x, kind)
        return y if outer == 1.0 else outer * y

    def scaled_norm(self, x: Tensor, norm: Norm, factor: float) -> Tensor:
        return factor * rms_norm(x, norm.weight, norm.eps)

    def add_norm(self, into: Tensor, x: Tensor, norm: Norm, factor: float) -> Tensor:
        return torch.add(into, rms_norm(x, norm.weight, norm.eps), alpha=factor)

    def gate_heads(self, spec: Gqa | Mla, x: Tensor, gate: Tensor) -> Tensor:
        if spec.gate == "channel":
            return x * gate.sigmoid()
        return gated_heads(x.view(x.shape[0], spec.n_heads, -1), gate).flatten(1)

    def gated_norm(self, x: Tensor, gate: Tensor, norm: Norm, by: Gate = "silu") -> Tensor:
        return gated_norm(x, gate, norm.weight, norm.eps, by).to(gate.dtype)
