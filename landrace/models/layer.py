"""One layer: a mixer and a feed-forward block, each normalised before it and added to the residual stream or streams.

Parameters carry the names transformers gives Llama's.
"""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.build import ffn_block, mixer_block, stream_block
from landrace.models.ops import Ops, X
from landrace.models.params import Norm
from landrace.models.residual.ngrams import NGramBlock
from landrace.models.spec import GatedStreams, LayerSpec, ModelSpec, Sandwich, Streams


class Layer(nn.Module):
    def __init__(self, index: int, spec: LayerSpec, model: ModelSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.residual = spec.residual
        normed = not isinstance(self.residual, GatedStreams)
        self.input_layernorm = Norm(model.d_model, model.norm_eps) if normed else None
        self.self_attn = mixer_block(spec.mixer, model, index, dtype)
        self.post_attention_layernorm = Norm(model.d_model, model.norm_eps) if normed else None
        self.mlp = ffn_block(spec.ffn, model, dtype)
        if isinstance(self.residual, Sandwich):
            self.post_self_attn_layernorm = Norm(model.d_model, model.norm_eps)
            self.post_mlp_layernorm = Norm(model.d_model, model.norm_eps)
        if isinstance(self.residual, Streams):
            self.ngrams = None
            if spec.ngrams is not None:
                self.ngrams = NGramBlock(spec.ngrams, model.d_model, model.norm_eps, index, dtype)
            self.attn_hc = stream_block(self.residual, model, dtype)
            self.mlp_hc = stream_block(self.residual, model, dtype)

    def forward(self, x: X, ops: Ops[X]) -> X:
        if isinstance(self.residual, Streams):
            if self.ngrams is not None:
                x = self.ngrams(x, ops)
            row, weights = self.attn_hc.collapse(x, ops)
            x = self.attn_hc.spread(x, self.self_attn(row, ops, self.input_layernorm, None, 1.0), weights, ops)
            row, weights = self.mlp_hc.collapse(x, ops)
            branch = self.mlp(row, ops, self.post_attention_layernorm, None, 1.0)
            streams: X = self.mlp_hc.spread(x, branch, weights, ops)
            return streams
        if isinstance(self.residual, Sandwich):
            scale = self.residual.scale
            branch = self.self_attn(x, ops, self.input_layernorm, None, 1.0)
            x = ops.add_norm(x, branch, self.post_self_attn_layernorm, scale)
            branch = self.mlp(x, ops, self.post_attention_layernorm, None, 1.0)
            return ops.add_norm(x, branch, self.post_mlp_layernorm, scale)
        x = self.self_attn(x, ops, self.input_layernorm, x, self.residual.scale)
        out: X = self.mlp(x, ops, self.post_attention_layernorm, x, self.residual.scale)
        return out
