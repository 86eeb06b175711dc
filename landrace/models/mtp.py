"""Multi-token prediction: a layer of its own that guesses the token after the next one, for every backend."""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.layer import Layer
from landrace.models.ops import Ops, X
from landrace.models.params import Linear, Norm
from landrace.models.spec import LayerSpec, ModelSpec


class Mtp(nn.Module):
    """Reads what the head reads at a position, and the next token (DeepSeek-V3, arXiv 2412.19437, section 2.2).

    Embedding and output head are the model's own. Its cache is behind those of the model's layers.
    """

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
