"""The layers of a decoder: modules called with the step that they are part of.

Parameters carry the names transformers gives Llama's. The residual stream, norms and rotations are float32; within a
branch, products and what passes between them are `product_dtype`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landrace.kernels.head_form import QkNorm
from landrace.kernels.reference.attention import AttentionPlan, attention, plan_attention
from landrace.kernels.reference.dense import linear, rms_norm, swiglu
from landrace.kernels.reference.rotary import rotate
from landrace.models.batch import ForwardBatch
from landrace.models.ffn_spec import Dense
from landrace.models.mixer_spec import Gqa, RopeSpec
from landrace.models.rope import rotary_tables
from landrace.models.spec import LayerSpec, ModelSpec, Sandwich


class Step:
    """What every layer of one forward call shares: the batch, how its sequences attend, and its rotary tables."""

    def __init__(self, batch: ForwardBatch) -> None:
        self.batch = batch
        device = batch.token_ids.device
        self.attention_plans: list[AttentionPlan] = (
            [plan_attention(batch.starts, None, device)]
            if batch.cache is None
            else [
                plan_attention(batch.starts, group.sequence_slots, device, group.first_positions)
                for group in batch.cache.groups
            ]
        )
        """By cache group; without a cache there is one for all."""
        self._tables: dict[RopeSpec, tuple[Tensor, Tensor]] = {}

    def rotary(self, rope: RopeSpec) -> tuple[Tensor, Tensor]:
        if rope not in self._tables:
            self._tables[rope] = rotary_tables(rope, self.batch.positions)
        return self._tables[rope]


class Embedding(nn.Module):
    """Token ids [T] to float32 rows [T, d_model]."""

    def __init__(self, vocab_size: int, d_model: int, dtype: torch.dtype) -> None:
        super().__init__()
        # Not nn.Embedding: its initialisation on the meta device loads a second's worth of torch's compiler.
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model, dtype=dtype), requires_grad=False)

    def forward(self, token_ids: Tensor) -> Tensor:
        return F.embedding(token_ids, self.weight).float()


class Linear(nn.Module):
    """y = x W^T + b. Called with the step so that a wrapper (an adapter, say) can tell rows apart."""

    def __init__(self, n_in: int, n_out: int, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in, dtype=dtype), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(n_out), requires_grad=False) if bias else None

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return linear(x, self.weight, self.bias)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, layer: int, spec: Gqa, model: ModelSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = layer
        self.spec = spec
        self.group = next(g for g, group in enumerate(model.cache_groups) if layer in group.layers)
        q_size, kv_size = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
        self.q_proj = Linear(model.d_model, q_size, spec.qkv_bias, dtype)
        self.k_proj = Linear(model.d_model, kv_size, spec.qkv_bias, dtype)
        self.v_proj = Linear(model.d_model, kv_size, spec.qkv_bias, dtype)
        self.o_proj = Linear(q_size, model.d_model, spec.o_bias, dtype)
        if spec.qk_norm is not None:
            self.q_norm = RMSNorm(spec.head_dim, model.norm_eps)
            self.k_norm = RMSNorm(spec.head_dim, model.norm_eps)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        spec = self.spec
        q = self.q_proj(x, step).view(-1, spec.n_heads, spec.head_dim)
        k = self.k_proj(x, step).view(-1, spec.n_kv_heads, spec.head_dim)
        v = self.v_proj(x, step).view(-1, spec.n_kv_heads, spec.head_dim)
        if spec.qk_norm == QkNorm("before_rope"):
            q, k = self.q_norm(q), self.k_norm(k)
        if spec.rope is not None:
            cos, sin = step.rotary(spec.rope)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if spec.qk_norm == QkNorm("after_rope"):
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = q.to(v.dtype), k.to(v.dtype)
        cache = step.batch.cache
        if cache is not None:
            keys, values = cache.layers[self.layer].keys, cache.layers[self.layer].values
            write_slots = cache.groups[self.group].write_slots
            keys.index_copy_(0, write_slots, k.to(keys.dtype))
            values.index_copy_(0, write_slots, v.to(values.dtype))
            k, v = keys, values
        plan = step.attention_plans[0 if cache is None else self.group]
        mixed = attention(q, k, v, plan, scale=spec.scale, mask=spec.mask)
        out: Tensor = self.o_proj(mixed.flatten(1), step)
        return out


class FeedForward(nn.Module):
    def __init__(self, spec: Dense, model: ModelSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.gate_proj = Linear(model.d_model, spec.d_hidden, spec.bias, dtype)
        self.up_proj = Linear(model.d_model, spec.d_hidden, spec.bias, dtype)
        self.down_proj = Linear(spec.d_hidden, model.d_model, spec.bias, dtype)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        out: Tensor = self.down_proj(swiglu(self.gate_proj(x, step), self.up_proj(x, step)), step)
        return out


class Layer(nn.Module):
    def __init__(
        self, index: int, spec: LayerSpec, model: ModelSpec, dtype: torch.dtype, product_dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.product_dtype = product_dtype
        self.residual_scale = spec.residual.scale
        self.sandwich = isinstance(spec.residual, Sandwich)
        self.input_layernorm = RMSNorm(model.d_model, model.norm_eps)
        self.self_attn = Attention(index, spec.mixer, model, dtype)
        self.post_attention_layernorm = RMSNorm(model.d_model, model.norm_eps)
        assert isinstance(spec.ffn, Dense)
        self.mlp = FeedForward(spec.ffn, model, dtype)
        if self.sandwich:
            self.post_self_attn_layernorm = RMSNorm(model.d_model, model.norm_eps)
            self.post_mlp_layernorm = RMSNorm(model.d_model, model.norm_eps)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        branch = self.self_attn(self.input_layernorm(x).to(self.product_dtype), step)
        if self.sandwich:
            branch = self.post_self_attn_layernorm(branch)
        x = torch.add(x, branch, alpha=self.residual_scale)
        branch = self.mlp(self.post_attention_layernorm(x).to(self.product_dtype), step)
        if self.sandwich:
            branch = self.post_mlp_layernorm(branch)
        return torch.add(x, branch, alpha=self.residual_scale)
