"""Llama 4: layers that rotate see their own chunk of the sequence; the others see everything, do not rotate, and
sharpen their queries with the position. An expert's worth multiplies its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from landrace.kernels.head_form import QkNorm, Temperature
from landrace.kernels.mask import FULL, Chunked
from landrace.kernels.router import Router
from landrace.models.families.config import MAX_LAYERS, MAX_POSITIONS, Config
from landrace.models.families.dense import layer_kinds, n_layers, read_attention, read_decoder
from landrace.models.families.family import WRAPPED, Family, TextHalf
from landrace.models.families.moe import TRAINING, mixed, read_experts
from landrace.models.families.names import Naming
from landrace.models.ffn_spec import Dense, Moe
from landrace.models.mixer_spec import Gqa
from landrace.models.spec import ModelSpec

LLAMA4 = {
    "vocab_size": 202048, "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
    "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "tie_word_embeddings": False,
    "attention_bias": False, "num_experts_per_tok": 1, "num_local_experts": 16, "interleave_moe_layer_step": 1,
    "use_qk_norm": True, "no_rope_layer_interval": 4, "attention_chunk_size": 8192, "attn_temperature_tuning": True,
    "floor_scale": 8192, "attn_scale": 0.1,
}  # fmt: skip
EXPERTS = {
    "feed_forward.experts.gate_up_proj": ("mlp.experts.gate_proj.weight", "mlp.experts.up_proj.weight"),
    "feed_forward.experts.down_proj": ("mlp.experts.down_proj.weight",),
}
NAMING = Naming(
    renamed={"mlp": "feed_forward"},
    fused=EXPERTS,
    transposed=tuple(EXPERTS),
    adapted_as_stored=True,
    interleaved=True,
)


def _attentions(config: Config) -> list[Gqa]:
    count, attention = n_layers(config), read_attention(config, bias=config.flag("attention_bias"))
    interval = config.size("no_rope_layer_interval", MAX_LAYERS)
    rotates = config.get("no_rope_layers") or [int((n + 1) % interval != 0) for n in range(count)]
    if not isinstance(rotates, list) or len(rotates) < count or any(one not in (0, 1) for one in rotates):
        raise config.wrong("no_rope_layers", rotates, f"a list of 0 and 1 for {count} layers")
    size = config.optional_size("attention_chunk_size", MAX_POSITIONS)
    kinds = {"full_attention": False, "chunked_attention": True}
    chunked = layer_kinds(config, "layer_types", count, kinds) or [bool(one) for one in rotates[:count]]
    norm = QkNorm("after_rope", "l2") if config.flag("use_qk_norm") else None
    config.require("attn_temperature_tuning", True, False, 4)  # Some published files say 4, which counts as true.
    scale, floor = config.number("attn_scale"), config.size("floor_scale", MAX_POSITIONS)
    temperature = Temperature(scale, floor) if config.get("attn_temperature_tuning") else None
    found = []
    for turns, in_chunks in zip(rotates, chunked, strict=False):
        layer = replace(attention, mask=Chunked(size) if in_chunks and size is not None else FULL)
        found.append(replace(layer, qk_norm=norm) if turns else replace(layer, rope=None, temperature=temperature))
    return found


def read_llama4(config: Config) -> ModelSpec:
    experts, chosen = read_experts(config, "num_local_experts", "num_experts_per_tok")
    hidden, count = config.size("intermediate_size"), n_layers(config)
    router = Router(chosen, "sigmoid_of_chosen")
    moe = Moe(experts, hidden, router, shared=Dense(hidden), weight_on_input=True)
    step, layers = config.size("interleave_moe_layer_step", MAX_LAYERS), config.get("moe_layers")
    layers = list(range(step - 1, count, step)) if layers is None else layers
    if not isinstance(layers, list) or any(one not in range(count) for one in layers):
        raise config.wrong("moe_layers", layers, "a list of layers")
    dense = Dense(config.size("intermediate_size_mlp"))
    return read_decoder(config, _attentions(config), mixed([n in layers for n in range(count)], dense, moe))


FAMILIES: Mapping[str, Family] = {
    "llama4_text": Family(read_llama4, LLAMA4, (NAMING,), no_effect=(*TRAINING, "for_llm_compressor"))
}
TEXT_HALVES: Mapping[str, TextHalf] = {
    "llama4": TextHalf(
        "llama4_text",
        WRAPPED,
        (r"(model\.)?(vision_model|multi_modal_projector)\..*",),
        modules=("language_model.model.", "language_model."),
        no_effect=("vision_config", r"\w+_token_index"),
    )
}
