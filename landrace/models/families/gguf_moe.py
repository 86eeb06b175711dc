"""What a GGUF file says of experts, under the keys that each family's config.json has for it.

llama.cpp's own code fixes part of each family: what the file leaves out is what that code does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from landrace.models.families.config import MAX_LAYERS, Config
from landrace.models.families.gguf_step import SLIDING_HEADS

SOFTMAX, SIGMOID = 1, 2
GLM_LITE_LAYERS, GLM_LITE_VOCABULARY = (47, 48), 154_880
"""By which llama.cpp, too, tells a GLM-4.7-Flash that does not say how its experts are scored."""

Facts = dict[str, Any]
ReadExperts = Callable[[Config, Collection[str], Facts], Facts]
"""Called with the file's keys, its tensors' names and the config so far."""


def _counts(
    keys: Config, experts: str, chosen: str, hidden: str, score: int = SOFTMAX, *, grouped: bool = False
) -> Facts:
    """The numbers that every mixture has, under the family's names for them. `grouped`: the family reads groups."""
    keys.require("expert_gating_func", score)
    for key in () if grouped else ("expert_group_count", "expert_group_used_count"):
        keys.require(key, 0, 1)
    count, used = keys.size("expert_count"), keys.size("expert_used_count")
    return {experts: count, chosen: used, hidden: keys.size("expert_feed_forward_length")}


def first_layers(keys: Config, key: str) -> int:
    """A number of layers that may be 0."""
    return 0 if keys.get(key) == 0 else keys.optional_size(key, MAX_LAYERS) or 0


def qwen2_moe(keys: Config, names: Collection[str], config: Facts) -> Facts:
    keys.require("expert_weights_norm", False)
    keys.require("expert_shared_count", 1)
    shared = keys.optional_size("expert_shared_feed_forward_length") or config["intermediate_size"]
    return {
        **_counts(keys, "num_experts", "num_experts_per_tok", "moe_intermediate_size"),
        "shared_expert_intermediate_size": shared,
        "norm_topk_prob": False,
    }


def qwen3_next(keys: Config, names: Collection[str], config: Facts) -> Facts:
    keys.require("expert_weights_norm", True)
    keys.require("expert_shared_count", 1)
    return {
        **_counts(keys, "num_experts", "num_experts_per_tok", "moe_intermediate_size"),
        "shared_expert_intermediate_size": keys.size("expert_shared_feed_forward_length"),
        "norm_topk_prob": True,
    }


def qwen3_moe(keys: Config, names: Collection[str], config: Facts) -> Facts:
    keys.require("expert_weights_norm", True)
    keys.get("n_deepstack_layers")  # Of images.
    counts = _counts(keys, "num_experts", "num_experts_per_tok", "moe_intermediate_size")
    return {**counts, "norm_topk_prob": True}


def glm4_moe(keys: Config, names: Collection[str], config: Facts) -> Facts:
    """The layers that guess further tokens are among those that the file counts."""
    drafts = first_layers(keys, "nextn_predict_layers")
    norm = keys.get("expert_weights_norm")
    return {
        **_counts(keys, "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", SIGMOID),
        "n_shared_experts": keys.size("expert_shared_count"),
        "first_k_dense_replace": first_layers(keys, "leading_dense_block_count"),
        "routed_scaling_factor": keys.optional_number("expert_weights_scale") or 1.0,
        "norm_topk_prob": True if norm is None else norm,
        "use_qk_norm": "blk.0.attn_q_norm.weight" in names,
        "num_hidden_layers": config["num_hidden_layers"] - drafts,
        "num_nextn_predict_layers": drafts,
    }


def ernie4_5_moe(keys: Config, names: Collection[str], config: Facts) -> Facts:
    keys.get("expert_shared_feed_forward_length")  # Their number times the experts' size, which is there too.
    return {
        **_counts(keys, "moe_num_experts", "moe_k", "moe_intermediate_size"),
        "moe_num_shared_experts": first_layers(keys, "expert_shared_count"),
        "moe_layer_start_index": first_layers(keys, "leading_dense_block_count"),
        "moe_layer_interval": keys.optional_size("interleave_moe_layer_step", MAX_LAYERS) or 1,
    }


def hunyuan_v1_moe(keys: Config, names: Collection[str], config: Facts) -> Facts:
    shared = keys.optional_size("expert_shared_count") or 1
    keys.require("expert_shared_feed_forward_length", shared * config["intermediate_size"])
    counts = _counts(keys, "num_experts", "moe_topk", "moe_intermediate_size")
    return {**counts, "num_shared_expert": shared}


def minimax_m2(keys: Config, names: Collection[str], config: Facts) -> Facts:
    return _counts(keys, "num_local_experts", "num_experts_per_tok", "intermediate_size", SIGMOID)


def gpt_oss(keys: Config, names: Collection[str], config: Facts) -> Facts:
    counts = _counts(keys, "num_local_experts", "num_experts_per_tok", "intermediate_size", 3)
    return {**counts, "sliding_window": keys.size("attention.sliding_window")}


def llama4(keys: Config, names: Collection[str], config: Facts) -> Facts:
    """Its chunks, its layers without rotation and its temperature are llama.cpp's own; 128 experts go without norms."""
    keys.require("attention.sliding_window", 8192)
    keys.require("leading_dense_block_count", 0)
    counts = _counts(keys, "num_local_experts", "num_experts_per_tok", "intermediate_size", SIGMOID)
    return {
        **counts,
        "intermediate_size_mlp": config["intermediate_size"],
        "interleave_moe_layer_step": keys.optional_size("interleave_moe_layer_step", MAX_LAYERS) or 1,
        "use_qk_norm": counts["num_local_experts"] != 128,
        "attention_bias": False,
    }


def deepseek(keys: Config, names: Collection[str], config: Facts) -> Facts:
    """DeepSeek-V2's softmax and V3's sigmoid share an architecture; the oldest files do not say which it is."""
    drafts, count = first_layers(keys, "nextn_predict_layers"), config["num_hidden_layers"]
    glm = count in GLM_LITE_LAYERS and config["vocab_size"] == GLM_LITE_VOCABULARY
    score = keys.get("expert_gating_func") or (SIGMOID if glm else SOFTMAX)
    groups, best = (
        keys.optional_size(key) or 1 if keys.get(key) else 1
        for key in ("expert_group_count", "expert_group_used_count")
    )
    if score not in (SOFTMAX, SIGMOID):
        keys.require("expert_gating_func", SOFTMAX, SIGMOID)
    found = {
        **_counts(keys, "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", score, grouped=True),
        "n_shared_experts": keys.size("expert_shared_count"),
        "first_k_dense_replace": first_layers(keys, "leading_dense_block_count"),
        "routed_scaling_factor": keys.optional_number("expert_weights_scale") or 1.0,
        "num_hidden_layers": count - drafts,
        "n_group": groups,
        "topk_group": best,
    }
    if score == SOFTMAX:
        keys.require("expert_weights_norm", False)
        return found | {
            "model_type": "deepseek_v2",
            "topk_method": "greedy" if groups == 1 else "group_limited_greedy",
        }
    return found | {"norm_topk_prob": bool(keys.get("expert_weights_norm")), "num_nextn_predict_layers": drafts}


def step3p5(keys: Config, names: Collection[str], config: Facts) -> Facts:
    keys.require("moe_every_n_layers", 1)
    keys.require("expert_weights_norm", True)
    count, pattern = config["num_hidden_layers"], keys.get("attention.sliding_window_pattern")
    dense = first_layers(keys, "leading_dense_block_count")
    return {
        **_counts(keys, "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", SIGMOID),
        "share_expert_dim": keys.size("expert_shared_feed_forward_length"),
        "moe_router_scaling_factor": keys.optional_number("expert_weights_scale") or 1.0,
        "sliding_window": keys.size("attention.sliding_window"),
        "num_sliding_attention_heads": keys.size(SLIDING_HEADS),
        "layer_types": ["sliding_attention" if slides else "full_attention" for slides in pattern],
        "mlp_layer_types": ["dense"] * dense + ["sparse"] * (count - dense),
        "swiglu_limits": keys.per_layer("swiglu_clamp_exp", count),
        "swiglu_limits_shared": keys.per_layer("swiglu_clamp_shexp", count),
    }


EXPERTS: Mapping[str, ReadExperts] = {
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
    "qwen3_next": qwen3_next,
    "qwen3_5_moe_text": qwen3_next,
    "glm4_moe": glm4_moe,
    "ernie4_5_moe": ernie4_5_moe,
    "hunyuan_v1_moe": hunyuan_v1_moe,
    "minimax_m2": minimax_m2,
    "gpt_oss": gpt_oss,
    "llama4_text": llama4,
    "step3p5": step3p5,
    "deepseek_v3": deepseek,
}
"""By the `model_type` that reads the file."""
