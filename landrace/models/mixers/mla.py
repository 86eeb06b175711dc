"""Multi-head latent attention, for every backend."""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.mixer_spec import Mla
from landrace.models.ops import Ops, X
from landrace.models.params import AbsorbedLinear, HeadLinear, LayerNorm, Linear, Norm, PlaceBias, Vector
from landrace.models.selection_spec import Selection


class Indexer(nn.Module):
    """What a layer's selection is made of. Its linear layers carry the names of DeepSeek's."""

    def __init__(self, spec: Selection, d_model: int, q_rank: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.wq_b = Linear(q_rank, spec.n_heads * spec.head_dim, False, dtype, "out")
        self.wk = Linear(d_model, spec.head_dim, False, dtype)
        self.k_norm = LayerNorm(spec.head_dim, spec.norm_eps)
        self.weights_proj = Linear(d_model, spec.n_heads, False, dtype, "out")
        self.place_bias = None
        if spec.pool > 1:
            self.pool_gate = Linear(d_model, spec.head_dim, False, dtype)
            self.place_bias = PlaceBias(spec.pool, spec.head_dim)

    @property
    def projections(self) -> list[Linear]:
        """Of the layer's input."""
        gates = [] if self.place_bias is None else [self.pool_gate]
        return [self.wk, self.weights_proj, *gates]


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
        self.indexer = None
        if spec.indexer is not None:
            assert spec.q_rank is not None
            self.indexer = Indexer(spec.indexer, d_model, spec.q_rank, dtype)

    def forward(self, x: X, ops: Ops[X], norm: Norm | None, into: X | None, factor: float) -> X:
        """into + factor * attention(norm(x))."""
        spec, indexer = self.spec, self.indexer
        first = self.q_proj if spec.q_rank is None else self.q_a_proj
        beside = [] if indexer is None else indexer.projections
        gates = [] if spec.gate is None else [self.g_proj]
        q, latents, *others = ops.linears(x, [first, self.kv_a_proj, *beside, *gates], norm=norm)
        index_queries: list[X] = []
        if spec.q_rank is not None:
            beside = [] if indexer is None else [indexer.wq_b]
            q, *index_queries = ops.linears(q, [self.q_b_proj, *beside], norm=self.q_a_norm)
        q, past = ops.keep_latents(spec, self.cache, q, latents, self.kv_a_norm)
        if indexer is not None:
            (index_q,), (index_k, weights, *others) = index_queries, others
            if indexer.place_bias is None:
                ops.select(spec, self.cache, index_q, index_k, weights, indexer.k_norm)
            else:
                pool_gate, *others = others
                by_place = indexer.place_bias
                ops.select_gated_pools(spec, self.cache, index_q, index_k, weights, pool_gate, indexer.k_norm, by_place)
        mixed = ops.attend_latents(spec, q, past, self.k_b_proj, self.v_b_proj, self.sinks)
        if others:
            mixed = ops.gate_heads(spec, mixed, others[0])
        return ops.add_linear(into, mixed, self.o_proj, factor)
