"""One layer: a mixer and a feed-forward block, each normalised before it and added to the residual stream or streams.

Parameters carry the names transformers gives Llama's.
"""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.build import ffn_block, mixer_block, stream_block
from landrace.models.ops import Ops, X
from landrace.models.params import Norm
from landrace.models.residual.attention import BlockAttention
from landrace.models.residual.ngrams import NGramBlock
from landrace.models.spec import AfterNorm, AttentionResiduals, GatedStreams, LayerSpec, ModelSpec, Sandwich, Streams


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
        if isinstance(self.residual, AttentionResiduals):
            self.attn_blocks = BlockAttention(self.residual, model.d_model, model.norm_eps)
            self.mlp_blocks = BlockAttention(self.residual, model.d_model, model.norm_eps)
        if isinstance(self.residual, Streams):
            self.ngrams = None
            if spec.ngrams is not None:
                self.ngrams = NGramBlock(spec.ngrams, model.d_model, model.norm_eps, index, dtype)
            self.attn_hc = stream_block(self.residual, model, dtype)
            self.mlp_hc = stream_block(self.residual, model, dtype)

    def forward(self, x: X, ops: Ops[X]) -> X:
        residual, before, between = self.residual, self.input_layernorm, self.post_attention_layernorm
        out: X
        if isinstance(residual, Streams):
            if self.ngrams is not None:
                x = self.ngrams(x, ops)
            row, weights = self.attn_hc.collapse(x, ops)
            x = self.attn_hc.spread(x, self.self_attn(row, ops, before, None, 1.0), weights, ops)
            row, weights = self.mlp_hc.collapse(x, ops)
            out = self.mlp_hc.spread(x, self.mlp(row, ops, between, None, 1.0), weights, ops)
        elif isinstance(residual, Sandwich):
            branch = self.self_attn(x, ops, before, None, 1.0)
            x = ops.add_norm(x, branch, self.post_self_attn_layernorm, residual.scale)
            branch = self.mlp(x, ops, between, None, 1.0)
            out = ops.add_norm(x, branch, self.post_mlp_layernorm, residual.scale)
        elif isinstance(residual, AttentionResiduals):
            row = self.attn_blocks(x, ops)
            summed = self.self_attn(row, ops, before, None if residual.starts else x, 1.0)
            x = ops.start_block(x, summed) if residual.starts else summed
            out = self.mlp(self.mlp_blocks(x, ops), ops, between, x, 1.0)
        elif isinstance(residual, AfterNorm):
            assert before is not None and between is not None
            x = self.self_attn(x, ops, before, ops.scaled_norm(x, before, residual.mixer_kept), residual.mixer_added)
            out = self.mlp(x, ops, between, ops.scaled_norm(x, between, residual.ffn_kept), residual.ffn_added)
        else:
            x = self.self_attn(x, ops, before, x, residual.scale)
            out = self.mlp(x, ops, between, x, residual.scale)
        return out
