"""Models with latent attention: DeepSeek-V2 to V3.1 and R1, Moonlight, Kimi-K2, the text half of Kimi-K2.5, and
GLM-4.7-Flash. The turning part of each head is stored for the interleaved layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from landrace.kernels.router import Router
from landrace.models.families.config import Config
from landrace.models.families.dense import read_decoder, read_mlp
from landrace.models.families.family import WRAPPED, Family, TextHalf
from landrace.models.families.latent import NAMES, read_latent_attention
from landrace.models.families.moe import (
    TRAINING,
    mixed,
    read_deepseek_mixture,
    read_experts,
    sparse_after,
    sparse_by_name,
)
from landrace.models.families.names import DEEPSEEK_EXPERTS, with_experts
from landrace.models.ffn_spec import Dense, Ffn, Moe
from landrace.models.spec import ModelSpec

V2 = {
    "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
    "tie_word_embeddings": False, "attention_bias": False, "q_lora_rank": 1536, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64, "n_shared_experts": 2,
    "moe_intermediate_size": 1407, "routed_scaling_factor": 1.0, "topk_method": "greedy", "first_k_dense_replace": 0,
}  # fmt: skip
V3 = {
    **V2, "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
    "num_attention_heads": 128, "max_position_embeddings": 4096, "n_routed_experts": 256, "n_shared_experts": 1,
    "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "routed_scaling_factor": 2.5, "norm_topk_prob": True,
    "topk_method": "noaux_tc", "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3, "num_nextn_predict_layers": 1,
}  # fmt: skip
GLM4_LITE = {
    **V3, "vocab_size": 154880, "hidden_size": 2048, "intermediate_size": 10240, "num_hidden_layers": 47,
    "num_attention_heads": 20, "max_position_embeddings": 202752, "rms_norm_eps": 1e-5, "q_lora_rank": 768,
    "qk_nope_head_dim": 192, "v_head_dim": 256, "n_routed_experts": 64, "num_experts_per_tok": 4,
    "moe_intermediate_size": 1536, "routed_scaling_factor": 1.8, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1,
}  # fmt: skip

NAMINGS = with_experts(
    DEEPSEEK_EXPERTS,
    base=replace(NAMES, interleaved=True),
)
KIMI_NAMINGS = (NAMINGS[0], *(replace(naming, layer="blocks.{}.") for naming in NAMINGS), NAMINGS[1])
"""transformers writes the layers of Kimi-K2.5's text half under the name of its tower's."""
ALIASES = {
    "num_local_experts": "n_routed_experts",
    "num_experts": "n_routed_experts",
    "num_mtp_layers": "num_nextn_predict_layers",
}
NO_EFFECT = (
    *TRAINING,
    "num_key_value_heads|(qk_)?head_dim",  # What follows from the widths of the parts.
    "ep_size",
)


def read_deepseek_v2(config: Config) -> ModelSpec:
    """Experts are worth their softmax over all of them; groups count as their best expert."""
    experts, chosen = read_experts(config, "n_routed_experts", "num_experts_per_tok")
    config.require("topk_method", "greedy", "group_limited_greedy")
    router = Router(chosen, "softmax", scale=config.number("routed_scaling_factor"))
    if config.get("topk_method") == "group_limited_greedy":
        router = replace(router, n_groups=config.size("n_group"), top_groups=config.size("topk_group"))
    hidden = config.size("moe_intermediate_size")
    moe = Moe(experts, hidden, router, shared=Dense(hidden * config.size("n_shared_experts")))
    ffns = mixed(sparse_after(config, "first_k_dense_replace"), read_mlp(config), moe)
    return read_decoder(config, read_latent_attention(config), ffns)


def read_feed_forward(config: Config) -> list[Ffn]:
    """DeepSeek-V3's: the first layers are dense."""
    dense_first = sparse_after(config, "first_k_dense_replace")
    return mixed(sparse_by_name(config) or dense_first, read_mlp(config), read_deepseek_mixture(config))


def read_deepseek_v3(config: Config) -> ModelSpec:
    return read_decoder(config, read_latent_attention(config), read_feed_forward(config))


SIGMOID = {"rope_interleave": True, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1}

FAMILIES: Mapping[str, Family] = {
    "deepseek_v2": Family(
        read_deepseek_v2,
        V2,
        NAMINGS,
        ALIASES,
        no_effect=(*NO_EFFECT, "n_group|topk_group"),
        # The published code divides by the sum where norm_topk_prob is true, and transformers' class does not.
        fixed={"scoring_func": "softmax", "moe_layer_freq": 1, "norm_topk_prob": False},
    ),
    "deepseek_v3": Family(read_deepseek_v3, V3, KIMI_NAMINGS, ALIASES, no_effect=NO_EFFECT, fixed=SIGMOID),
    "kimi_k2": Family(read_deepseek_v3, V3, KIMI_NAMINGS, ALIASES, no_effect=NO_EFFECT, fixed=SIGMOID),
    "glm4_moe_lite": Family(read_deepseek_v3, GLM4_LITE, NAMINGS, ALIASES, no_effect=NO_EFFECT, fixed=SIGMOID),
}
TEXT_HALVES: Mapping[str, TextHalf] = {
    "kimi_k25": TextHalf(
        "deepseek_v3",
        WRAPPED,
        (r"(model\.)?(vision_tower|mm_projector)\..*",),
        tied=("outer",),
        ties_by_default=True,
        no_effect=("vision_config", "projection_.*", "use_unified_vision_chunk", "video_placeholder", "ignore_index"),
    ),
}
