"""Tencent Hunyuan-A13B (`hunyuan_v1_moe`), which normalises q and k after the rotation, and Hy3 (`hy_v3`)."""

from __future__ import annotations

from collections.abc import Mapping

from landrace.kernels.head_form import QkNorm
from landrace.kernels.router import Router
from landrace.models.families import hunyuan
from landrace.models.families.config import Config
from landrace.models.families.dense import n_layers, read_attention, read_decoder, read_mlp
from landrace.models.families.family import Family
from landrace.models.families.llama import SHAPE
from landrace.models.families.moe import TRAINING, mixed, read_experts, sparse_after, sparse_by_name
from landrace.models.families.names import MtpNaming, Naming, with_experts
from landrace.models.ffn_spec import Dense, Moe
from landrace.models.spec import ModelSpec

HUNYUAN_MOE = {**SHAPE, "vocab_size": 290943, "rms_norm_eps": 1e-5, "num_experts": 1, "moe_topk": 1}
HY3 = {
    **SHAPE, "vocab_size": 120832, "intermediate_size": 13312, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 11_158_840.0, "num_experts": 192, "num_experts_per_tok": 8, "num_shared_experts": 1,
    "moe_intermediate_size": 1536, "router_scaling_factor": 2.826, "first_k_dense_replace": 1,
}  # fmt: skip

NAMINGS = with_experts({"mlp.router": "mlp.gate.wg", "mlp.shared_expert": "mlp.shared_mlp"}, base=hunyuan.NAMING)
HY3_MTP = Naming(mtp=MtpNaming(norm="layers.{}.final_layernorm"))
HY3_NAMINGS = with_experts(
    {
        "mlp.router": "mlp.router.gate",
        "mlp.router.choice_bias": "mlp.expert_bias",
        "mlp.shared_expert": "mlp.shared_mlp",
    },
    {
        "mlp.router": "mlp.gate",
        "mlp.router.choice_bias": "mlp.e_score_correction_bias",
        "mlp.shared_expert": "mlp.shared_experts",
    },
    base=HY3_MTP,
)


def read_hunyuan_moe(config: Config) -> ModelSpec:
    """Sizes may be listed for every layer; they must agree."""
    count = n_layers(config)
    per_layer = ("num_experts", "moe_topk", "moe_intermediate_size", "num_shared_expert")
    sizes = Config({key: config.for_all(key, count) for key in per_layer})
    experts, chosen = read_experts(sizes, "num_experts", "moe_topk")
    width = config.size("intermediate_size")
    shared = Dense(width * (sizes.optional_size("num_shared_expert") or 1))
    hidden = sizes.optional_size("moe_intermediate_size") or width
    moe = Moe(experts, hidden, Router(chosen, renorm=True), shared=shared)
    return read_decoder(config, hunyuan.read_normed_attention(config), moe)


def read_hy3(config: Config) -> ModelSpec:
    experts, chosen = read_experts(config, "num_experts", "num_experts_per_tok")
    hidden, mlp_bias = config.size("moe_intermediate_size"), config.flag("mlp_bias")
    scale = config.number("router_scaling_factor")
    moe = Moe(
        experts,
        hidden,
        Router(chosen, "sigmoid", choice_bias=True, renorm=True, scale=scale),
        shared=Dense(hidden * config.size("num_shared_experts"), bias=mlp_bias),
    )
    attention = read_attention(config, bias=config.flag("attention_bias"), qk_norm=QkNorm("before_rope"))
    first = sparse_after(config, "first_k_dense_replace")
    return read_decoder(config, attention, mixed(sparse_by_name(config) or first, read_mlp(config, mlp_bias), moe))


HUNYUAN_FIXED = {key: value for key, value in hunyuan.FIXED.items() if key != "num_experts"}

FAMILIES: Mapping[str, Family] = {
    "hunyuan_v1_moe": Family(
        read_hunyuan_moe,
        HUNYUAN_MOE,
        NAMINGS,
        {"num_experts_per_tok": "moe_topk", "num_local_experts": "num_experts"},
        no_effect=(
            *TRAINING,
            r"\w+_id|org_vocab_size|dense_list|moe_(drop_tokens|random_routing_dropped_token)|capacity_factor",
            # Fields of its siblings with latent attention, towers or heads for other tasks.
            r"(q|kv)_lora_rank|(qk_nope|qk_rope|v)_head_dim|pool_type|class_num|cla_share_factor|num_media_embeds",
            r"anyres_.*|vit_.*|video_.*|im_.*",
        ),
        fixed={
            **HUNYUAN_FIXED,
            "norm_topk_prob": True,
            "use_mixed_mlp_moe": True,
            "moe_layer_num_skipped": 0,
            "routed_scaling_factor": 1.0,
            "group_limited_greedy": False,
        },
    ),
    "hy_v3": Family(
        read_hy3,
        HY3,
        HY3_NAMINGS,
        {"num_local_experts": "num_experts", "expert_hidden_dim": "moe_intermediate_size"},
        # Where the results of routed and shared experts are added in float32 anyway.
        no_effect=(*TRAINING, r"enable_(moe_fp32_combine|lm_head_fp32|attention_fp32_softmax)"),
        fixed={
            "qk_norm": True,
            "route_norm": True,
            "moe_router_use_sigmoid": True,
            "moe_router_enable_expert_bias": True,
        },
    ),
}
