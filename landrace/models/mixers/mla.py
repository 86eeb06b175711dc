"""Multi-head latent attention, for every backend."""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.mixer_spec import Mla
from landrace.models.ops import Ops, X
from landrace.models.params import AbsorbedLinear, HeadLinear, Linear, Norm, Vector


class MlaBlock(nn.Module):
    """`cache` is the number of the layer's cache."""

    def __init__(self, spec: Mla, d_model: int, cache: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.spec = spec
        self.cache = cache
        q_size = spec.n_heads * (spec.nope_dim + spec.rope_dim)
        if spec.q_rank is None:
            self.q_proj = Linear(d_model, q_size, False, dtype, "out")
        else:
            self.q_a_proj = Linear(d_model, spec.q_rank, spec.bias, dtype)
            self.q_a_norm = Norm(spec.q_rank, spec.rank_eps)
            self.q_b_proj = Linear(spec.q_rank, q_size, False, dtype, "out")
        self.kv_a_proj = Linear(d_model, spec.kv_rank + spec.rope_dim, spec.bias, dtype)
        self.kv_a_norm = Norm(spec.kv_rank, spec.rank_eps)
        self.k_b_proj = AbsorbedLinear(spec.n_heads, spec.kv_rank, spec.nope_dim, dtype)
        self.v_b_proj = HeadLinear(spec.n_heads, spec.kv_rank, spec.v_dim, dtype)
        self.o_proj = Linear(spec.n_heads * spec.v_dim, d_model, spec.bias, dtype, "in")
        if spec.gate is not None:
            self.g_proj = Linear(d_model, spec.n_heads * spec.v_dim, False, dtype, "out")
        self.sinks = Vector(spec.n_heads) if spec.sinks else None

    def forward(self, x: X, ops: Ops[X], norm: Norm | None, into: X | None, factor: float) -> X:
        """into + factor * attention(norm(x))."""
        spec = self.spec
        first = self.q_proj if spec.q_rank is None else self.q_a_proj
        gates = [] if spec.gate is None else [self.g_proj]
        q, latents, *gate = ops.linears(x, [first, self.kv_a_proj, *gates], norm=norm)
        if spec.q_rank is not None:
            (q,) = ops.linears(q, [self.q_b_proj], norm=self.q_a_norm)
        q, past = ops.keep_latents(spec, self.cache, q, latents, self.kv_a_norm)
        mixed = ops.attend_latents(spec, q, past, self.k_b_proj, self.v_b_proj, self.sinks)
        if gate:
            mixed = ops.gate_heads(spec, mixed, gate[0])
        return ops.add_linear(into, mixed, self.o_proj, factor)
