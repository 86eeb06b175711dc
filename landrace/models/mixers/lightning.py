"""Lightning attention, for every backend."""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.mixer_spec import Lightning
from landrace.models.ops import Ops, X
from landrace.models.params import Linear, Norm


class LightningBlock(nn.Module):
    """`cache` is the number of the layer's cache."""

    def __init__(self, spec: Lightning, d_model: int, cache: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.spec = spec
        self.cache = cache
        width = spec.n_heads * spec.head_dim
        self.in_proj_q = Linear(d_model, width, False, dtype, "out")
        self.in_proj_k = Linear(d_model, width, False, dtype, "out")
        self.in_proj_v = Linear(d_model, width, False, dtype, "out")
        self.in_proj_z = Linear(d_model, width, False, dtype, "out")
        self.gated_norm = Norm(width, spec.norm_eps)
        self.out_proj = Linear(width, d_model, False, dtype, "in")

    def forward(self, x: X, ops: Ops[X], norm: Norm | None, into: X | None, factor: float) -> X:
        """into + factor * lightning_attention(norm(x))."""
        projections = [self.in_proj_q, self.in_proj_k, self.in_proj_v, self.in_proj_z]
        q, k, v, gate = ops.linears(x, projections, norm=norm)
        read = ops.lightning(self.spec, self.cache, q, k, v)
        return ops.add_linear(into, ops.gated_norm(read, gate, self.gated_norm, "sigmoid"), self.out_proj, factor)
