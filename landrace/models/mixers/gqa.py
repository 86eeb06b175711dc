"""Grouped-query attention, for every backend."""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.mixer_spec import Gqa
from landrace.models.ops import Ops, X
from landrace.models.params import Linear, Norm


class GqaBlock(nn.Module):
    """`cache` is the number of the layer's cache."""

    def __init__(self, spec: Gqa, d_model: int, eps: float, cache: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.spec = spec
        self.cache = cache
        q_size, kv_size = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
        self.q_proj = Linear(d_model, q_size, spec.qkv_bias, dtype)
        self.k_proj = Linear(d_model, kv_size, spec.qkv_bias, dtype)
        self.v_proj = Linear(d_model, kv_size, spec.qkv_bias, dtype)
        self.o_proj = Linear(q_size, d_model, spec.o_bias, dtype)
        if spec.qk_norm is not None:
            self.q_norm = Norm(spec.head_dim, eps)
            self.k_norm = Norm(spec.head_dim, eps)

    def forward(self, x: X, ops: Ops[X], norm: Norm | None, into: X | None, factor: float) -> X:
        """into + factor * attention(norm(x))."""
        q, k, v = ops.linears(x, [self.q_proj, self.k_proj, self.v_proj], norm=norm)
        norms = None if self.spec.qk_norm is None else (self.q_norm, self.k_norm)
        q, past = ops.keep(self.spec, self.cache, q, k, v, norms)
        return ops.add_linear(into, ops.attend(self.spec, q, past), self.o_proj, factor)
