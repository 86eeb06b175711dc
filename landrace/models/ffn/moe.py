"""A mixture of experts with a router and a shared expert, for every backend."""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.ffn.dense import DenseBlock
from landrace.models.ffn_spec import Moe
from landrace.models.ops import Ops, X
from landrace.models.params import Experts, Linear, Norm, RouterWeights


class MoeBlock(nn.Module):
    def __init__(self, spec: Moe, d_model: int, vocab_size: int, norm_eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.spec = spec
        self.router = RouterWeights(spec.router, spec.n_experts, d_model, vocab_size)
        width = d_model if spec.latent is None else spec.latent.width
        self.experts = ExpertProjections(spec, width, dtype)
        if spec.latent is not None:
            self.latent_down_proj = Linear(d_model, width, False, dtype)
            self.latent_norm = Norm(width, norm_eps) if spec.latent.normed else None
            self.latent_up_proj = Linear(width, d_model, False, dtype, "out")
        if spec.shared is not None:
            self.shared_expert = DenseBlock(spec.shared, d_model, dtype)
        if spec.shared_gate:
            self.shared_gate = Linear(d_model, 1, False, dtype)

    def forward(self, x: X, ops: Ops[X], norm: Norm | None, into: X | None, factor: float) -> X:
        """into + factor * (the chosen experts' and the shared expert's results for norm(x))."""
        x = x if norm is None else ops.norm(x, norm)
        own = self.experts
        routing = ops.route(x, self.router, self.spec.router)
        projections = (own.gate_proj, own.up_proj, own.down_proj)
        if self.spec.latent is None:
            into = ops.experts(into, x, routing, *projections, self.spec, factor)
        else:
            (latents,) = ops.linears(x, [self.latent_down_proj])
            made = ops.experts(None, latents, routing, *projections, self.spec, 1.0)
            into = ops.add_linear(into, made, self.latent_up_proj, factor, norm=self.latent_norm)
        if self.spec.shared is None:
            return into
        gate = ops.linears(x, [self.shared_gate])[0] if self.spec.shared_gate else None
        out: X = self.shared_expert(x, ops, None, into, factor, gate=gate)
        return out


class ExpertProjections(nn.Module):
    """The three projections of every expert."""

    def __init__(self, spec: Moe, d_model: int, dtype: torch.dtype) -> None:
        super().__init__()
        share = spec.router.top_k / spec.n_experts
        self.gate_proj = Experts(spec.n_experts, d_model, spec.d_hidden, spec.bias, dtype, share)
        self.up_proj = Experts(spec.n_experts, d_model, spec.d_hidden, spec.bias, dtype, share)
        self.down_proj = Experts(spec.n_experts, spec.d_hidden, d_model, spec.bias, dtype, share)
