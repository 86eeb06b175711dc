"""The parameters that a `ModelSpec` has, by canonical name and shape."""

from __future__ import annotations

from collections.abc import Iterator

from landrace.models.ffn_spec import Dense, Ffn, Moe
from landrace.models.mixer_spec import Gqa
from landrace.models.spec import LayerSpec, ModelSpec, Sandwich

Parameter = tuple[str, tuple[int, ...]]


def parameters(spec: ModelSpec) -> Iterator[Parameter]:
    """(name, shape) of every parameter."""
    yield "embed_tokens.weight", (spec.vocab_size, spec.d_model)
    for n, layer in enumerate(spec.layers):
        for name, shape in _layer(layer, spec.d_model):
            yield f"layers.{n}.{name}", shape
    yield "norm.weight", (spec.d_model,)
    if not spec.tie_embeddings:
        yield from _linear("lm_head", spec.vocab_size, spec.d_model, spec.lm_head_bias)


def _layer(layer: LayerSpec, width: int) -> Iterator[Parameter]:
    yield "input_layernorm.weight", (width,)
    yield from _attention(layer.mixer, width)
    yield "post_attention_layernorm.weight", (width,)
    yield from _ffn(layer.ffn, width)
    if isinstance(layer.residual, Sandwich):
        yield "post_self_attn_layernorm.weight", (width,)
        yield "post_mlp_layernorm.weight", (width,)


def _attention(spec: Gqa, width: int) -> Iterator[Parameter]:
    q_size, kv_size = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    if spec.q_rank is not None:
        yield "self_attn.q_a_proj.weight", (spec.q_rank, width)
        yield "self_attn.q_a_norm.weight", (spec.q_rank,)
    yield from _linear("self_attn.q_proj", q_size, spec.q_rank or width, spec.qkv_bias)
    yield from _linear("self_attn.k_proj", kv_size, width, spec.qkv_bias)
    yield from _linear("self_attn.v_proj", kv_size, width, spec.qkv_bias)
    yield from _linear("self_attn.o_proj", width, q_size, spec.o_bias)
    if spec.qk_norm is not None and spec.qk_norm.kind == "rms":
        joint = spec.qk_norm.over == "all_heads"
        yield "self_attn.q_norm.weight", (q_size if joint else spec.head_dim,)
        yield "self_attn.k_norm.weight", (kv_size if joint else spec.head_dim,)
    if spec.sinks:
        yield "self_attn.sinks", (spec.n_heads,)
    if spec.head_gate:
        yield "self_attn.gate_proj.weight", (spec.n_heads, width)


def _ffn(spec: Ffn, width: int) -> Iterator[Parameter]:
    if isinstance(spec, Dense):
        yield from _gated("mlp", spec, width)
        return
    yield from _moe(spec, width)


def _moe(spec: Moe, width: int) -> Iterator[Parameter]:
    experts, hidden = spec.n_experts, spec.d_hidden
    yield "mlp.router.weight", (experts, width)
    if spec.router.bias:
        yield "mlp.router.bias", (experts,)
    if spec.router.choice_bias:
        yield "mlp.router.choice_bias", (experts,)
    for name, rows, columns in (("gate", hidden, width), ("up", hidden, width), ("down", width, hidden)):
        yield f"mlp.experts.{name}_proj.weight", (experts, rows, columns)
        if spec.bias:
            yield f"mlp.experts.{name}_proj.bias", (experts, rows)
    if spec.shared is not None:
        yield from _gated("mlp.shared_expert", spec.shared, width)
    if spec.shared_gate:
        yield "mlp.shared_gate.weight", (1, width)


def _gated(name: str, spec: Dense, width: int) -> Iterator[Parameter]:
    yield from _linear(f"{name}.gate_proj", spec.d_hidden, width, spec.bias)
    yield from _linear(f"{name}.up_proj", spec.d_hidden, width, spec.bias)
    yield from _linear(f"{name}.down_proj", width, spec.d_hidden, spec.bias)


def _linear(name: str, n_out: int, n_in: int, bias: bool) -> Iterator[Parameter]:
    yield f"{name}.weight", (n_out, n_in)
    if bias:
        yield f"{name}.bias", (n_out,)
