"""Attention over a window and over compressed rows, for every backend."""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.compressed_spec import Compressed
from landrace.models.ops import Ops, X
from landrace.models.params import HeadLinear, Linear, Norm, PlaceBias, Vector


class CompressedBlock(nn.Module):
    """`cache` is the number of the layer's cache."""

    def __init__(self, spec: Compressed, d_model: int, cache: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.spec = spec
        self.cache = cache
        width = spec.n_heads * spec.head_dim
        self.q_a_proj = Linear(d_model, spec.q_rank, False, dtype)
        self.q_a_norm = Norm(spec.q_rank, spec.norm_eps)
        self.q_b_proj = Linear(spec.q_rank, width, False, dtype, "out")
        self.kv_proj = Linear(d_model, spec.head_dim, False, dtype)
        self.kv_norm = Norm(spec.head_dim, spec.norm_eps)
        self.sinks = Vector(spec.n_heads)
        if (compression := spec.compression) is not None:
            compressed = compression.parts * spec.head_dim
            self.compress_proj = Linear(d_model, compressed, False, dtype)
            self.compress_gate_proj = Linear(d_model, compressed, False, dtype)
            self.compress_bias = PlaceBias(compression.ratio, compressed)
            self.compress_norm = Norm(spec.head_dim, spec.norm_eps)
            if (selection := compression.selection) is not None:
                compressed = compression.parts * selection.head_dim
                self.index_q_proj = Linear(spec.q_rank, selection.n_heads * selection.head_dim, False, dtype, "out")
                self.index_weights_proj = Linear(d_model, selection.n_heads, False, dtype, "out")
                self.index_proj = Linear(d_model, compressed, False, dtype)
                self.index_gate_proj = Linear(d_model, compressed, False, dtype)
                self.index_bias = PlaceBias(compression.ratio, compressed)
                self.index_norm = Norm(selection.head_dim, spec.norm_eps)
        self.o_a_proj = HeadLinear(spec.n_groups, width // spec.n_groups, spec.group_rank, dtype)
        self.o_b_proj = Linear(spec.n_groups * spec.group_rank, d_model, False, dtype, "in")

    def forward(self, x: X, ops: Ops[X], norm: Norm | None, into: X | None, factor: float) -> X:
        """into + factor * attention(norm(x))."""
        spec, compression, cache = self.spec, self.spec.compression, self.cache
        selects = compression is not None and compression.selection is not None
        of_compression = [] if compression is None else [self.compress_proj, self.compress_gate_proj]
        of_index = [self.index_proj, self.index_gate_proj, self.index_weights_proj] if selects else []
        q, row, *others = ops.linears(x, [self.q_a_proj, self.kv_proj, *of_compression, *of_index], norm=norm)
        queries = [self.q_b_proj, self.index_q_proj] if selects else [self.q_b_proj]
        q, *index_q = ops.linears(q, queries, norm=self.q_a_norm)
        q, past = ops.keep_row(spec, cache, q, row, self.kv_norm)
        compressed = None
        if compression is not None:
            values, gates, *of_indexer = others
            compressed = ops.compress(spec, cache, values, gates, self.compress_bias, self.compress_norm)
            if selects:
                values, gates, weights = of_indexer
                ops.select_compressed(spec, cache, index_q[0], weights, values, gates, self.index_bias, self.index_norm)
        mixed = ops.attend_compressed(spec, q, past, compressed, self.sinks)
        return ops.add_linear(into, ops.by_head(mixed, self.o_a_proj), self.o_b_proj, factor)
