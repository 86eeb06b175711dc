"""One layer: a mixer and a feed-forward block, each normalised before it and added to the residual stream.

Parameters carry the names transformers gives Llama's.
"""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.build import ffn_block, mixer_block
from landrace.models.ops import Ops, X
from landrace.models.params import Norm
from landrace.models.spec import AfterNorm, LayerSpec, ModelSpec, Sandwich


class Layer(nn.Module):
    def __init__(self, index: int, spec: LayerSpec, model: ModelSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.residual = spec.residual
        self.input_layernorm = Norm(model.d_model, model.norm_eps)
        self.self_attn = mixer_block(spec.mixer, model, index, dtype)
        self.post_attention_layernorm = Norm(model.d_model, model.norm_eps)
        self.mlp = ffn_block(spec.ffn, model, dtype)
        if isinstance(self.residual, Sandwich):
            self.post_self_attn_layernorm = Norm(model.d_model, model.norm_eps)
            self.post_mlp_layernorm = Norm(model.d_model, model.norm_eps)

    def forward(self, x: X, ops: Ops[X]) -> X:
        residual, before, between = self.residual, self.input_layernorm, self.post_attention_layernorm
        if isinstance(residual, Sandwich):
            branch = self.self_attn(x, ops, before, None, 1.0)
            x = ops.add_norm(x, branch, self.post_self_attn_layernorm, residual.scale)
            branch = self.mlp(x, ops, between, None, 1.0)
            return ops.add_norm(x, branch, self.post_mlp_layernorm, residual.scale)
        out: X
        if isinstance(residual, AfterNorm):
            x = self.self_attn(x, ops, before, ops.stream(x, before, residual.mixer_kept), residual.mixer_added)
            out = self.mlp(x, ops, between, ops.stream(x, between, residual.ffn_kept), residual.ffn_added)
        else:
            x = self.self_attn(x, ops, before, x, residual.scale)
            out = self.mlp(x, ops, between, x, residual.scale)
        return out
