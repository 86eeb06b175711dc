"""Kimi delta attention, for every backend."""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.mixer_spec import Kda
from landrace.models.ops import Ops, X
from landrace.models.params import Kernel, Linear, Norm, Vector


class KdaBlock(nn.Module):
    """`cache` is the number of the layer's cache."""

    def __init__(self, spec: Kda, d_model: int, eps: float, cache: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.spec = spec
        self.cache = cache
        width = spec.n_heads * spec.head_dim
        self.q_proj = Linear(d_model, width, False, dtype, "out")
        self.k_proj = Linear(d_model, width, False, dtype, "out")
        self.v_proj = Linear(d_model, width, False, dtype, "out")
        self.b_proj = Linear(d_model, spec.n_heads, False, dtype, "out")
        self.f_a_proj = Linear(d_model, spec.head_dim, False, dtype)
        self.f_b_proj = Linear(spec.head_dim, width, False, dtype, "out")
        self.q_conv = Kernel(width, spec.conv_width)
        self.k_conv = Kernel(width, spec.conv_width)
        self.v_conv = Kernel(width, spec.conv_width)
        self.a_log = Vector(spec.n_heads)
        self.dt_bias = Vector(width)
        if spec.low_rank_gate:
            self.g_a_proj = Linear(d_model, spec.head_dim, False, dtype)
            self.g_b_proj = Linear(spec.head_dim, width, False, dtype, "out")
        else:
            self.in_proj_z = Linear(d_model, width, False, dtype, "out")
        self.gated_norm = Norm(spec.head_dim, eps)
        self.o_proj = Linear(width, d_model, False, dtype, "in")

    def forward(self, x: X, ops: Ops[X], norm: Norm | None, into: X | None, factor: float) -> X:
        """into + factor * delta_attention(norm(x))."""
        low_rank = self.spec.low_rank_gate
        projections = [self.q_proj, self.k_proj, self.v_proj, self.b_proj, self.f_a_proj]
        projections.append(self.g_a_proj if low_rank else self.in_proj_z)
        q, k, v, b, low_decay, gate = ops.linears(x, projections, norm=norm)
        (a,) = ops.linears(low_decay, [self.f_b_proj])
        q, k, v = ops.conv(self.cache, [q, k, v], [self.q_conv, self.k_conv, self.v_conv], first=-5)
        read = ops.delta(self.spec, self.cache, q, k, v, a, b, self.a_log, self.dt_bias)
        if low_rank:
            (gate,) = ops.linears(gate, [self.g_b_proj])
        return ops.add_linear(into, ops.gated_norm(read, gate, self.gated_norm, "sigmoid"), self.o_proj, factor)
