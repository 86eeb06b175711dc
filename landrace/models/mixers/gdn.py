"""The gated delta net, for every backend."""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.mixer_spec import Gdn
from landrace.models.ops import Ops, X
from landrace.models.params import Kernel, Linear, Norm, Vector


class GdnBlock(nn.Module):
    """`cache` is the number of the layer's cache."""

    def __init__(self, spec: Gdn, d_model: int, eps: float, cache: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.spec = spec
        self.cache = cache
        keys, values = spec.n_heads * spec.key_dim, spec.n_value_heads * spec.value_dim
        self.in_proj_q = Linear(d_model, keys, False, dtype, "out")
        self.in_proj_k = Linear(d_model, keys, False, dtype, "out")
        self.in_proj_v = Linear(d_model, values, False, dtype, "out")
        self.in_proj_z = Linear(d_model, values, False, dtype, "out")
        self.in_proj_b = Linear(d_model, spec.n_value_heads, False, dtype, "out")
        self.in_proj_a = Linear(d_model, spec.n_value_heads, False, dtype, "out")
        self.q_conv = Kernel(keys, spec.conv_width)
        self.k_conv = Kernel(keys, spec.conv_width)
        self.v_conv = Kernel(values, spec.conv_width)
        self.a_log = Vector(spec.n_value_heads)
        self.dt_bias = Vector(spec.n_value_heads)
        self.gated_norm = Norm(spec.value_dim, eps)
        self.out_proj = Linear(values, d_model, False, dtype, "in")

    def forward(self, x: X, ops: Ops[X], norm: Norm | None, into: X | None, factor: float) -> X:
        """into + factor * delta_net(norm(x))."""
        projections = [self.in_proj_q, self.in_proj_k, self.in_proj_v, self.in_proj_z, self.in_proj_b, self.in_proj_a]
        q, k, v, z, b, a = ops.linears(x, projections, norm=norm)
        q, k, v = ops.conv(self.cache, [q, k, v], [self.q_conv, self.k_conv, self.v_conv], first=-5)
        read = ops.delta(self.spec, self.cache, q, k, v, a, b, self.a_log, self.dt_bias)
        return ops.add_linear(into, ops.gated_norm(read, z, self.gated_norm, self.spec.gate), self.out_proj, factor)
