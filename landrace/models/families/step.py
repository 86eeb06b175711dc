"""StepFun Step-3.5 and 3.7: layers with a sliding window have heads, and a rotary embedding, of their own; each head's
result is gated; norms are stored around zero; some layers bound what their experts multiply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.activation import SWIGLU, Activation
from landrace.kernels.head_form import QkNorm
from landrace.kernels.mask import FULL, Sliding
from landrace.kernels.router import Router
from landrace.models.families.config import MAX_POSITIONS, Config, shown
from landrace.models.families.dense import layer_kinds, n_layers, read_decoder, read_heads
from landrace.models.families.family import AT_TOP, Family, TextHalf
from landrace.models.families.moe import TRAINING, read_experts, sparse_by_name, sparse_from_list
from landrace.models.families.names import DEEPSEEK_EXPERTS, Naming, with_experts
from landrace.models.families.rope import read_rope
from landrace.models.ffn_spec import Dense, Ffn, Moe
from landrace.models.mixer_spec import Gqa, RopeSpec
from landrace.models.spec import ModelSpec

STEP3P5 = {
    "vocab_size": 128815, "hidden_size": 4096, "intermediate_size": 11264, "num_hidden_layers": 45,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "tie_word_embeddings": False, "attention_bias": False,
    "mlp_bias": False, "n_routed_experts": 288, "num_experts_per_tok": 8, "moe_intermediate_size": 1280,
    "share_expert_dim": 1280, "moe_router_scaling_factor": 1.0,
}  # fmt: skip
KINDS = ("full_attention", "sliding_attention")
PADDED = ("layer_types", "mlp_layer_types", "swiglu_limits", "swiglu_limits_shared", "rope_theta",
          "partial_rotary_factors")  # fmt: skip
"""Lists that published files extend over the layers that guess further tokens."""

NAMINGS = with_experts(
    {
        "mlp.router": "moe.gate",
        "mlp.router.choice_bias": "moe.router_bias",
        "mlp.experts": "moe",
        "mlp.shared_expert": "share_expert",
    },
    DEEPSEEK_EXPERTS,
    base=Naming(norms_around_zero=True),
)


def read_step3p5(config: Config) -> ModelSpec:
    count = n_layers(config)
    config = _without_drafts(config, count)
    slides = layer_kinds(config, "layer_types", count, dict(zip(KINDS, (False, True), strict=True)))
    slides = slides or [False] * count
    experts, chosen = read_experts(config, "n_routed_experts", "num_experts_per_tok")
    router = Router(chosen, "sigmoid", choice_bias=True, renorm=True, scale=config.number("moe_router_scaling_factor"))
    bias, hidden = config.flag("mlp_bias"), config.size("moe_intermediate_size")
    sparse = sparse_by_name(config) or sparse_from_list(config, "moe_layers_enum") or [n >= 3 for n in range(count)]
    routed, plain = _activations(config, "swiglu_limits", count), _activations(config, "swiglu_limits_shared", count)
    ffns: list[Ffn] = []
    for has_experts, own, shared in zip(sparse, routed, plain, strict=True):
        if has_experts:
            both = Dense(config.size("share_expert_dim"), bias, shared)
            ffns.append(Moe(experts, hidden, router, activation=own, shared=both))
        else:
            ffns.append(Dense(config.size("intermediate_size"), bias, shared))
    return read_decoder(config, _attentions(config, slides), ffns)


def _without_drafts(config: Config, count: int) -> Config:
    drafts = config.get("num_nextn_predict_layers") or 0
    cut = {key: config.get(key) for key in PADDED}
    for key, value in cut.items():
        if isinstance(value, list) and isinstance(drafts, int) and len(value) == count + drafts:
            cut[key] = value[:count]
    return config.replaced({key: value for key, value in cut.items() if value is not None})


def _attentions(config: Config, slides: list[bool]) -> list[Gqa]:
    n_heads, n_kv_heads, head_dim = read_heads(config)
    of_sliding = _sliding_heads(config, n_heads, n_kv_heads, head_dim)
    if of_sliding % n_kv_heads:
        raise CheckpointError(f"{of_sliding} attention heads cannot share {n_kv_heads} key-value heads.")
    _check_layers(config, slides, of_sliding)
    window = config.optional_size("sliding_window", MAX_POSITIONS)
    if any(slides) and window is None:
        raise CheckpointError("The configuration names sliding layers but uses no sliding window.")
    bias = config.flag("attention_bias")
    scale = (config.optional_number("query_pre_attn_scalar") or head_dim) ** -0.5
    ropes = _ropes(config, head_dim, slides)

    def layer(sliding: bool) -> Gqa:
        return Gqa(
            n_heads=of_sliding if sliding else n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            scale=scale,
            rope=ropes[sliding],
            mask=Sliding(window) if sliding and window is not None else FULL,
            qkv_bias=bias,
            o_bias=bias,
            qk_norm=QkNorm("before_rope"),
            gate="head",
        )

    return [layer(one) for one in slides]


def _sliding_heads(config: Config, n_heads: int, n_kv_heads: int, head_dim: int) -> int:
    other = config.section("attention_other_setting")
    stated = config.optional_size("num_sliding_attention_heads")
    if other is None:
        return stated or n_heads
    other.require("attention_type", "sliding_attention")
    other.require("num_attention_groups", n_kv_heads)
    other.require("head_dim", head_dim)
    found = stated or other.optional_size("num_attention_heads") or n_heads
    other.get("num_attention_heads")
    other.finish(("true_head_dim",))
    return found


def _check_layers(config: Config, slides: list[bool], n_heads: int) -> None:
    """transformers repeats the number of heads for each sliding layer; nothing else may differ by layer."""
    differing = config.get("per_layer_config")
    usual = {str(n): {"num_attention_heads": n_heads} for n, sliding in enumerate(slides) if sliding}
    if differing and differing != usual:
        raise UnsupportedError(f"config.json sets per_layer_config to {shown(differing)}, which is not implemented.")


def _ropes(config: Config, head_dim: int, slides: list[bool]) -> dict[bool, RopeSpec]:
    """The rotary embedding of sliding layers and of the others."""
    by_kind = config.get("rope_parameters")
    scaling, only = config.get("rope_scaling"), config.get("yarn_only_types")
    thetas, parts = config.get("rope_theta"), config.get("partial_rotary_factors")
    length = config.get("max_position_embeddings")
    found = {}
    for sliding in set(slides):
        kind, first = KINDS[sliding], slides.index(sliding)
        values: dict[str, Any] = {"max_position_embeddings": length}
        if isinstance(by_kind, Mapping) and kind in by_kind:
            values["rope_parameters"] = by_kind[kind]
        else:
            values["rope_theta"] = thetas[first] if isinstance(thetas, list) else thetas
            values["partial_rotary_factor"] = parts[first] if isinstance(parts, list) else None
            # Published files scale the layers without a window, whether they list them or not.
            values["rope_scaling"] = scaling if kind in (only or KINDS[:1]) else None
        found[sliding] = read_rope(Config(values), head_dim, partial=True)
    return found


def _activations(config: Config, key: str, count: int) -> list[Activation]:
    """A bound for each layer; 0 and null are none."""
    limits = config.per_layer(key, count) or [None] * count
    return [Activation("clamp_after", Config({key: one}).number(key)) if one else SWIGLU for one in limits]


FAMILIES: Mapping[str, Family] = {
    "step3p5": Family(
        read_step3p5,
        STEP3P5,
        NAMINGS,
        {
            "num_local_experts": "n_routed_experts",
            "moe_num_experts": "n_routed_experts",
            "moe_top_k": "num_experts_per_tok",
            "share_expert_dims": "share_expert_dim",
            "num_attention_groups": "num_key_value_heads",
            "num_mtp_layers": "num_nextn_predict_layers",
        },
        no_effect=(*TRAINING, r"mtp_(mlp_)?layer_types|max_seq_len|model_max_length|need_fp32_gate|att_impl_type"),
        fixed={
            "use_head_wise_attn_gate": True,
            "use_moe_router_bias": True,
            "moe_router_activation": "sigmoid",
            "norm_expert_weight": True,
            "zero_centered": True,
            "use_qk_norm": True,
            "sink": False,
            "use_mfa": False,
            "moe_every_n_layer": 1,
            "moe_layer_offset": 0,
        },
    )
}
TEXT_HALVES: Mapping[str, TextHalf] = {
    "step3p7": TextHalf(
        "step3p5",
        AT_TOP,
        (r"(model\.)?(vision_model|vit_large_projector|multi_modal_projector)\..*",),
        no_effect=(r"vision_config|projector_bias|understand_projector_stride|image_token_len|patch_token_len",),
    )
}
