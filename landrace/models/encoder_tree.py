"""An encoder's forward pass, for every backend, and the weights that it declares."""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.encoder_spec import Classifier, EncoderSpec
from landrace.models.mixers.gqa import GqaBlock
from landrace.models.ops import Ops, X
from landrace.models.params import LayerNorm, Linear, Table, name_weights


class EncoderTree(nn.Module):
    """`compute` and `classify` leave their rows with `Ops.keep_hidden`."""

    def __init__(self, spec: EncoderSpec, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.spec = spec
        d_model = spec.d_model
        with torch.device("meta"):
            self.embed_tokens = Table(spec.vocab_size, d_model, dtype)
            self.embed_types = Table(spec.n_types, d_model, dtype) if spec.n_types else None
            self.embed_positions = Table(spec.max_length, d_model, dtype)
            self.embedding_norm = LayerNorm(d_model, spec.norm_eps)
            self.layers = nn.ModuleList(EncoderLayer(spec, index, dtype) for index in range(spec.n_layers))
            self.classifier = None if spec.classifier is None else ClassifierBlock(spec.classifier, d_model, dtype)
        name_weights(self)

    def compute(self, ops: Ops[X]) -> None:
        """The final row of each token [T, d_model]."""
        x = ops.embed(self.embed_tokens, 1.0)
        if self.embed_types is not None:
            x = ops.add_embedding(x, self.embed_types, "types")
        x = ops.norm(ops.add_embedding(x, self.embed_positions, "positions"), self.embedding_norm)
        for layer in self.layers:
            x = layer(x, ops)
        ops.keep_hidden(x, None)

    def classify(self, ops: Ops[X]) -> None:
        """The labels' scores of the rows that the step brings [T, n_labels]."""
        assert self.classifier is not None
        ops.keep_hidden(self.classifier(ops.hidden(self.spec.d_model), ops), None)


class EncoderLayer(nn.Module):
    """`index` is the number of the layer's keys and values."""

    def __init__(self, spec: EncoderSpec, index: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.activation = spec.activation
        self.self_attn = GqaBlock(spec.attention, spec.d_model, spec.norm_eps, index, dtype)
        self.attention_norm = LayerNorm(spec.d_model, spec.norm_eps)
        self.up_proj = Linear(spec.d_model, spec.d_hidden, True, dtype, "out")
        self.down_proj = Linear(spec.d_hidden, spec.d_model, True, dtype, "in")
        self.output_norm = LayerNorm(spec.d_model, spec.norm_eps)

    def forward(self, x: X, ops: Ops[X]) -> X:
        x = ops.norm(self.self_attn(x, ops, None, x, 1.0), self.attention_norm)
        (hidden,) = ops.linears(x, [self.up_proj])
        hidden = ops.activate(hidden, self.activation, inner=1.0)
        return ops.norm(ops.add_linear(x, hidden, self.down_proj), self.output_norm)


class ClassifierBlock(nn.Module):
    def __init__(self, spec: Classifier, d_model: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.activation = spec.activation
        self.dense = Linear(d_model, d_model, True, dtype)
        self.out_proj = Linear(d_model, spec.n_labels, True, dtype)

    def forward(self, x: X, ops: Ops[X]) -> X:
        (pooled,) = ops.linears(x, [self.dense])
        (scores,) = ops.linears(ops.activate(pooled, self.activation, inner=1.0), [self.out_proj])
        return scores
