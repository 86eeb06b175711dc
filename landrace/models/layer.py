"""One layer: a mixer and a feed-forward block, each normalised before it and added to the residual stream.

Parameters carry the names transformers gives Llama's.
"""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.build import ffn_block, mixer_block
from landrace.models.ops import Ops, X
from landrace.models.params import Norm
from landrace.models.spec import LayerSpec, ModelSpec, Sandwich


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
        if isinstance(self.residual, Sandwich):
            scale = self.residual.scale
            branch = self.self_attn(x, ops, self.input_layernorm, None, 1.0)
            x = ops.add_norm(x, branch, self.post_self_attn_layernorm, scale)
            branch = self.mlp(x, ops, self.post_attention_layernorm, None, 1.0)
            return ops.add_norm(x, branch, self.post_mlp_layernorm, scale)
        x = self.self_attn(x, ops, self.input_layernorm, x, self.residual.scale)
        out: X = self.mlp(x, ops, self.post_attention_layernorm, x, self.residual.scale)
        return out
