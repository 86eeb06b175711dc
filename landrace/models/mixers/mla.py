"""Multi-head latent attention, for every backend."""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.mixer_spec import Mla
from landrace.models.ops import Ops, X
from landrace.models.params import AbsorbedLinear, HeadLinear, Linear, Norm


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

    def forward(self, x: X, ops: Ops[X], norm: Norm | None, into: X | None, factor: float) -> X:
        """into + factor * attention(norm(x))."""
        spec = self.spec
        if spec.q_rank is None:
            q, latents = ops.linears(x, [self.q_proj, self.kv_a_proj], norm=norm)
        else:
            low, latents = ops.linears(x, [self.q_a_proj, self.kv_a_proj], norm=norm)
            (q,) = ops.linears(low, [self.q_b_proj], norm=self.q_a_norm)
        q, past = ops.keep_latents(spec, self.cache, q, latents, self.kv_a_norm)
        mixed = ops.attend_latents(spec, q, past, self.k_b_proj, self.v_b_proj)
        return ops.add_linear(into, mixed, self.o_proj, factor)
