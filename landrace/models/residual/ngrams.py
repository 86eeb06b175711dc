"""What n-grams add to residual streams, for every backend."""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.ops import Ops, X
from landrace.models.params import Kernel, Linear, Norm, Table
from landrace.models.spec import NGramEmbedding


class NGramBlock(nn.Module):
    """`cache` is the number of the layer's cache."""

    def __init__(self, spec: NGramEmbedding, d_model: int, eps: float, cache: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.spec = spec
        self.cache = cache
        self.count = spec.channels // d_model
        self.table = Table(spec.rows, spec.width // len(spec.form.sizes), dtype)
        self.table.share = len(spec.form.sizes) / spec.rows
        self.key_proj = Linear(spec.width, spec.channels, False, dtype, "out")
        self.value_proj = Linear(spec.width, d_model, False, dtype)
        self.key_norm = Norm(spec.channels, eps, groups=self.count)
        self.query_norm = Norm(spec.channels, eps, groups=self.count)
        self.conv_norm = Norm(spec.channels, eps, groups=self.count)
        self.mixed_conv = Kernel(spec.channels, spec.conv_width)

    def forward(self, streams: X, ops: Ops[X]) -> X:
        """The streams + values + a convolution of values: those of the n-grams, gated by each stream."""
        rows = ops.ngrams(self.spec.form, self.cache, self.table)
        keys, values = ops.linears(rows, [self.key_proj, self.value_proj])
        keys, queries = ops.norm(keys, self.key_norm), ops.norm(streams, self.query_norm)
        gated = ops.gated_values(keys, queries, values, self.count)
        normed = ops.norm(gated, self.conv_norm)
        (mixed,) = ops.conv(self.cache, [normed], [self.mixed_conv], first=1, dilation=self.spec.form.longest)
        return ops.add(ops.add(streams, gated), mixed)
