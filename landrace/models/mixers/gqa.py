"""Grouped-query attention, for every backend."""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.mixer_spec import Gqa
from landrace.models.ops import Ops, X
from landrace.models.params import Linear, Norm, Vector
from landrace.models.selection_spec import BlockSelection, MeanSelection, PoolSelection


class GqaBlock(nn.Module):
    """`cache` is the number of the layer's cache."""

    def __init__(self, spec: Gqa, d_model: int, eps: float, cache: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.spec = spec
        self.cache = cache
        self.eps = eps
        q_size, kv_size = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
        if spec.q_rank is not None:
            self.q_a_proj = Linear(d_model, spec.q_rank, False, dtype)
            self.q_a_norm = Norm(spec.q_rank, eps)
        self.q_proj = Linear(spec.q_rank or d_model, q_size, spec.qkv_bias, dtype, "out")
        self.k_proj = Linear(d_model, kv_size, spec.qkv_bias, dtype, "out")
        self.v_proj = Linear(d_model, kv_size, spec.qkv_bias, dtype, "out")
        self.o_proj = Linear(q_size, d_model, spec.o_bias, dtype, "in")
        if spec.gate is not None:
            self.g_proj = Linear(d_model, spec.n_heads if spec.gate == "head" else q_size, False, dtype, "out")
        if spec.qk_norm is not None and spec.qk_norm.kind == "rms":
            over_all = spec.qk_norm.over == "all_heads"
            self.q_norm = Norm(q_size if over_all else spec.head_dim, eps)
            self.k_norm = Norm(kv_size if over_all else spec.head_dim, eps)
        self.sinks = Vector(spec.n_heads) if spec.sinks else None
        if isinstance(spec.selection, BlockSelection | PoolSelection):
            index_dim = spec.selection.head_dim
            self.index_q_proj = Linear(d_model, spec.index_heads * index_dim, False, dtype, "out")
            self.index_k_proj = Linear(d_model, index_dim, False, dtype)
            self.index_q_norm = Norm(index_dim, eps)
            self.index_k_norm = Norm(index_dim, eps)

    def forward(self, x: X, ops: Ops[X], norm: Norm | None, into: X | None, factor: float) -> X:
        """into + factor * attention(norm(x))."""
        spec = self.spec
        first = self.q_proj if spec.q_rank is None else self.q_a_proj
        gates = [] if spec.gate is None else [self.g_proj]
        indexed = isinstance(spec.selection, BlockSelection | PoolSelection)
        index = [self.index_q_proj, self.index_k_proj] if indexed else []
        q, k, v, *beside = ops.linears(x, [first, self.k_proj, self.v_proj, *gates, *index], norm=norm)
        gate, index_rows = beside[: len(gates)], beside[len(gates) :]
        if spec.q_rank is not None:
            (q,) = ops.linears(q, [self.q_proj], norm=self.q_a_norm)
        weighted = spec.qk_norm is not None and spec.qk_norm.kind == "rms"
        norms = (self.q_norm, self.k_norm) if weighted else None
        q, past = ops.keep(spec, self.cache, q, k, v, norms, self.eps)
        if isinstance(spec.selection, MeanSelection):
            ops.select_by_means(spec, self.cache, q, past)
        elif index:
            index_q, index_k = index_rows
            choose = ops.select_blocks if isinstance(spec.selection, BlockSelection) else ops.select_pools
            choose(spec, self.cache, index_q, index_k, (self.index_q_norm, self.index_k_norm))
        further = None if spec.chunks is None else ops.turn_on(spec, q)
        mixed = ops.attend(spec, q, past, self.sinks, further)
        if gate:
            mixed = ops.gate_heads(spec, mixed, gate[0])
        return ops.add_linear(into, mixed, self.o_proj, factor)
