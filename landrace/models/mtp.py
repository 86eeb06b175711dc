"""Multi-token prediction: a layer of its own that guesses the token after the next one, for every backend."""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.build import stream_head
from landrace.models.layer import Layer
from landrace.models.ops import Ops, X
from landrace.models.params import Linear, Norm
from landrace.models.spec import LayerSpec, ModelSpec, Streams


class Mtp(nn.Module):
    """Reads what the head reads at a position, and the next token (DeepSeek-V3, arXiv 2412.19437, section 2.2).

    Embedding and output head are the model's own. Its cache is behind those of the model's layers.
    """

    hc_head = None

    def __init__(self, spec: LayerSpec, model: ModelSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.embedding_norm = Norm(model.d_model, model.norm_eps)
        self.hidden_norm = Norm(model.d_model, model.norm_eps)
        self.proj = Linear(2 * model.d_model, model.d_model, False, dtype, "out")
        self.layer = Layer(len(model.layers), spec, model, dtype)
        self.norm = Norm(model.d_model, model.norm_eps)

    def forward(self, hidden: X, embedded: X, ops: Ops[X]) -> X:
        """layer(proj(norm(embedded) beside norm(hidden)))."""
        both = ops.join([(embedded, self.embedding_norm), (hidden, self.hidden_norm)])
        (x,) = ops.linears(both, [self.proj])
        out: X = self.layer(x, ops)
        return out


class StreamMtp(nn.Module):
    """The same between residual streams: reads those that the last layer leaves, each normalised by itself, and the
    next token; what it leaves is read so by its next guess (DeepSeek-V4)."""

    def __init__(self, spec: LayerSpec, model: ModelSpec, streams: Streams, dtype: torch.dtype) -> None:
        super().__init__()
        self.count = streams.count
        self.embedding_norm = Norm(model.d_model, model.norm_eps)
        self.hidden_norm = Norm(model.d_model, model.norm_eps, groups=streams.count, shared=True)
        self.embedding_proj = Linear(model.d_model, model.d_model, False, dtype, "out")
        self.hidden_proj = Linear(model.d_model, model.d_model, False, dtype, "out")
        self.layer = Layer(len(model.layers), spec, model, dtype)
        self.hc_head = stream_head(streams, model, dtype)
        self.norm = Norm(model.d_model, model.norm_eps)

    def forward(self, hidden: X, embedded: X, ops: Ops[X]) -> X:
        """layer(proj(norm(stream)) + proj(norm(embedded)), stream by stream)."""
        (token,) = ops.linears(embedded, [self.embedding_proj], norm=self.embedding_norm)
        x = ops.by_stream(ops.norm(hidden, self.hidden_norm), self.hidden_proj, self.count)
        out: X = self.layer(ops.add(ops.widen(token, self.count), x), ops)
        return out


def mtp_block(spec: LayerSpec, model: ModelSpec, dtype: torch.dtype) -> Mtp | StreamMtp:
    """Between what layers of the model leave, one row or several streams."""
    streams = model.streams
    return Mtp(spec, model, dtype) if streams is None else StreamMtp(spec, model, streams, dtype)
