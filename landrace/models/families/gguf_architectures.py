"""llama.cpp's architectures: which family reads each, and what its files say under which names.

llama.cpp's own code fixes part of each model: what a file leaves out is what that code does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.families import gguf_delta, gguf_hunyuan, gguf_kimi_k3, gguf_pools, gguf_streams
from landrace.models.families.config import Config
from landrace.models.families.gguf_architecture import (
    AFTER_ATTENTION,
    ANY_SIZE,
    ATTENTION,
    BIASED,
    BIASED_QKV,
    BLOCK_INDEXER,
    BLOCK_READS,
    COUNT,
    GATED_QUERIES,
    INDEXER_READS,
    LLAMA_FLAGS,
    LOCAL_EXPERTS,
    MLP,
    NEXT_FIXED,
    NEXT_READS,
    NUMBER,
    QKV,
    QWEN_EXPERTS,
    ROUTED_EXPERTS,
    ROUTED_READS,
    SIGMOID,
    SIZE,
    SOFTMAX,
    SOFTMAX_OF_CHOSEN,
    SQRT_SOFTPLUS,
    STEP,
    Architecture,
    Facts,
    without_drafts,
    written_shared,
)
from landrace.models.families.gguf_rope import gpt_oss_rope, step_rope
from landrace.models.ffn_spec import Dense
from landrace.models.spec import ModelSpec

HEADS, PATTERN, SLIDING_HEADS = "attention.head_count", "attention.sliding_window_pattern", "sliding_heads"
GLM_LITE_LAYERS, GLM_LITE_VOCABULARY = (47, 48), 154_880
"""By which llama.cpp, too, tells a GLM-4.7-Flash that does not say how its experts are scored."""
GLM_5_2_LENGTH = 1 << 20
"""By which llama.cpp, too, tells a GLM-5.2 that does not say which layers have an indexer."""
BAICHUAN_13B_LAYERS = 40
"""By which llama.cpp, too, tells the Baichuan that does not rotate."""


def _minicpm(keys: Config, names: Collection[str], config: Facts) -> Facts:
    """Stored as the decoder uses them; the hub's keys hold the numbers they were made from."""
    return {
        "scale_emb": keys.number("embedding_scale"),
        "scale_depth": keys.number("residual_scale") * config["num_hidden_layers"] ** 0.5,
        "dim_model_base": config["hidden_size"] / keys.number("logit_scale"),
    }


def _written_minicpm(spec: ModelSpec, stated: Facts) -> Facts:
    return {
        "embedding_scale": float(stated["scale_emb"]),
        "residual_scale": stated["scale_depth"] / len(spec.layers) ** 0.5,
        "logit_scale": stated["hidden_size"] / stated["dim_model_base"],
    }


def _baichuan(keys: Config, names: Collection[str], config: Facts) -> Facts:
    if config["num_hidden_layers"] != BAICHUAN_13B_LAYERS:
        return {}
    return {"model_max_length": config.pop("max_position_embeddings")}


def _glm4(keys: Config, names: Collection[str], config: Facts) -> Facts:
    sections = keys.get("rope.dimension_sections")
    if sections and any(sections):
        raise UnsupportedError(
            "GGUF files of GLM-4V are not supported: their q and k rows are stored in an order of their own.",
            hint="Use the model's safetensors.",
        )
    return {}


def _glm4_moe(keys: Config, names: Collection[str], config: Facts) -> Facts:
    norm = keys.get("expert_weights_norm")
    return {
        **without_drafts(keys, config),
        "norm_topk_prob": True if norm is None else norm,
        "use_qk_norm": "blk.0.attn_q_norm.weight" in names,
    }


def _llama4(keys: Config, names: Collection[str], config: Facts) -> Facts:
    """Its chunks, its layers without rotation and its temperature are llama.cpp's own; 128 experts go without norms."""
    return {"intermediate_size_mlp": config["intermediate_size"], "use_qk_norm": keys.get("expert_count") != 128}


def _deepseek(keys: Config, names: Collection[str], config: Facts) -> Facts:
    """DeepSeek-V2's softmax and V3's sigmoid share an architecture; the oldest files do not say which it is."""
    count = config["num_hidden_layers"]
    glm = count in GLM_LITE_LAYERS and config["vocab_size"] == GLM_LITE_VOCABULARY
    score = keys.get("expert_gating_func") or (SIGMOID if glm else SOFTMAX)
    keys.require("expert_gating_func", SOFTMAX, SIGMOID)
    if score == SOFTMAX:
        keys.require("expert_weights_norm", False)
        groups = _groups(keys)
        method = "greedy" if groups["n_group"] == 1 else "group_limited_greedy"
        return {"model_type": "deepseek_v2", "topk_method": method, **groups, **without_drafts(keys, config)}
    return _deepseek_v3(keys, names, config)


def _deepseek_v3(keys: Config, names: Collection[str], config: Facts) -> Facts:
    return {
        **without_drafts(keys, config),
        "norm_topk_prob": bool(keys.get("expert_weights_norm")),
        **_groups(keys),
    }


def _groups(keys: Config) -> dict[str, int]:
    names = {"n_group": "expert_group_count", "topk_group": "expert_group_used_count"}
    return {name: keys.optional_size(key) or 1 if keys.get(key) else 1 for name, key in names.items()}


def _deepseek_v32(keys: Config, names: Collection[str], config: Facts) -> Facts:
    keys.require("expert_gating_func", SIGMOID)
    return _deepseek_v3(keys, names, config)


def _glm_moe_dsa(keys: Config, names: Collection[str], config: Facts) -> Facts:
    """Which layers have an indexer: what the file says, or else, as in llama.cpp, all or those of GLM-5.2."""
    found = _deepseek_v32(keys, names, config)
    types = keys.per_layer("attention.indexer.types", found["num_hidden_layers"])
    if types is not None:
        return found | {"indexer_types": ["full" if own else "shared" for own in types]}
    if config["max_position_embeddings"] >= GLM_5_2_LENGTH:
        return found | {"index_topk_freq": 4, "index_skip_topk_offset": 3}
    return found


def _minimax_m3(keys: Config, names: Collection[str], config: Facts) -> Facts:
    """Layers with experts are those with an indexer."""
    count, dense = config["num_hidden_layers"], keys.count("leading_dense_block_count")
    shared = keys.size("expert_shared_count") * keys.size("expert_feed_forward_length")
    return {
        "layer_types": ["full_attention"] * dense + ["minimax_m3_sparse"] * (count - dense),
        "mlp_layer_types": ["dense"] * dense + ["sparse"] * (count - dense),
        "dense_intermediate_size": config["intermediate_size"],
        "shared_intermediate_size": shared,
    }


def _written_minimax_m3(spec: ModelSpec, stated: Facts) -> Facts:
    ffns = [layer.ffn for layer in spec.layers]
    return {
        "leading_dense_block_count": sum(isinstance(ffn, Dense) for ffn in ffns),
        "expert_shared_count": stated["shared_intermediate_size"] // stated["intermediate_size"],
    }


def _step(keys: Config, names: Collection[str], config: Facts) -> Facts:
    count, dense = config["num_hidden_layers"], keys.count("leading_dense_block_count")
    return {
        "layer_types": ["sliding_attention" if slides else "full_attention" for slides in keys.get(PATTERN)],
        "mlp_layer_types": ["dense"] * dense + ["sparse"] * (count - dense),
        "swiglu_limits": keys.per_layer("swiglu_clamp_exp", count),
        "swiglu_limits_shared": keys.per_layer("swiglu_clamp_shexp", count),
        "num_nextn_predict_layers": keys.count("nextn_predict_layers"),
    }


def _step_keys(own: Mapping[str, Any]) -> Mapping[str, Any]:
    return _one_head_count(_of_layers_that_answer(own))


def _of_layers_that_answer(own: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys without the last layers, which guess further tokens: lists have an entry for each of these as well."""
    count, drafts = own.get("block_count"), own.get("nextn_predict_layers") or 0
    if not isinstance(count, int) or not isinstance(drafts, int) or not 0 <= drafts < count:
        raise CheckpointError("The GGUF metadata's nextn_predict_layers must be fewer than its block_count.")
    cut = {
        key: value[: count - drafts] for key, value in own.items() if isinstance(value, list) and len(value) == count
    }
    return {**own, **cut, "block_count": count - drafts}


def _one_head_count(own: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys with one number of heads for the layers that slide, under a name of its own, and one for the others."""
    heads, pattern = own.get(HEADS), own.get(PATTERN)
    if not isinstance(heads, list) or not isinstance(pattern, list) or not len(heads) == len(pattern) > 0:
        raise CheckpointError(f"The GGUF metadata do not say {HEADS} and {PATTERN} for every layer.")
    full = {count for count, slides in zip(heads, pattern, strict=True) if not slides}
    sliding = {count for count, slides in zip(heads, pattern, strict=True) if slides}
    if len(full) != 1 or len(sliding) != 1:
        raise UnsupportedError("The GGUF file's layers differ in attention.head_count otherwise than by their window.")
    return {**own, HEADS: full.pop(), SLIDING_HEADS: sliding.pop()}


QWEN3_MOE = Architecture(
    "qwen3_moe",
    flags=BIASED,
    experts=QWEN_EXPERTS,
    fixed={"expert_weights_norm": True},
    no_effect=("n_deepstack_layers",),  # Of images.
    adds={"norm_topk_prob": True},
)

ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("llama", interleaved=True, flags=LLAMA_FLAGS),
    "smollm3": Architecture("smollm3", interleaved=True, flags=LLAMA_FLAGS),
    "granite": Architecture(
        "granite", interleaved=True, flags=LLAMA_FLAGS,
        reads={
            "attention_multiplier": (NUMBER, "attention.scale"), "embedding_multiplier": (NUMBER, "embedding_scale"),
            "residual_multiplier": (NUMBER, "residual_scale"), "logits_scaling": (NUMBER, "logit_scale"),
        },
        more=lambda keys, names, config: {"attention_multiplier": config["head_dim"] ** -0.5},
    ),
    "minicpm": Architecture("minicpm", interleaved=True, flags=BIASED, more=_minicpm, writes=_written_minicpm),
    "qwen2": Architecture("qwen2"),
    # Text alone turns every section of its rotary embedding by the same position, as Qwen2 does.
    "qwen2vl": Architecture("qwen2"),
    "qwen3": Architecture("qwen3", flags=BIASED),
    "qwen3vl": Architecture("qwen3", flags=BIASED, no_effect=("n_deepstack_layers",)),  # Of images.
    "glm4": Architecture(
        "glm4", interleaved=True,
        renamed={"post_self_attn_layernorm": "post_attention_norm", "post_mlp_layernorm": "post_ffw_norm"},
        fused={"ffn_up": ("mlp.gate_proj", "mlp.up_proj")}, flags=BIASED_QKV, adds={"partial_rotary_factor": 1.0},
        more=_glm4,
    ),
    # ChatGLM3 and the first GLM-4 files, whose transformers class is GLM's.
    "chatglm": Architecture(
        "glm", interleaved=True, fused={"ffn_up": ("mlp.gate_proj", "mlp.up_proj")}, flags=BIASED_QKV,
        adds={"partial_rotary_factor": 1.0},
    ),
    "ernie4_5": Architecture("ernie4_5", interleaved=True, flags={"use_bias": (*ATTENTION, *MLP)}),
    "seed_oss": Architecture(
        "seed_oss", renamed=AFTER_ATTENTION,
        flags={**BIASED_QKV, "attention_out_bias": ("attn_output",), "mlp_bias": MLP},
    ),
    "baichuan": Architecture("baichuan", interleaved=True, unit_head=125_696, more=_baichuan),
    "qwen2moe": Architecture(
        "qwen2_moe", flags={"qkv_bias": QKV}, experts=QWEN_EXPERTS,
        fixed={"expert_weights_norm": False, "expert_shared_count": 1},
        reads={"shared_expert_intermediate_size": (ANY_SIZE, "expert_shared_feed_forward_length")},
        adds={"norm_topk_prob": False},
        more=lambda keys, names, config: {"shared_expert_intermediate_size": config["intermediate_size"]},
    ),
    "qwen3moe": QWEN3_MOE,
    "qwen3vlmoe": QWEN3_MOE,
    "glm4moe": Architecture(
        "glm4_moe", drafts=True, renamed=AFTER_ATTENTION, flags=BIASED_QKV, experts=ROUTED_EXPERTS,
        score=SIGMOID, reads=ROUTED_READS,
        adds={"partial_rotary_factor": 1.0, "routed_scaling_factor": 1.0}, more=_glm4_moe,
        writes=lambda spec, stated: {"expert_weights_norm": stated["norm_topk_prob"]},
    ),
    "ernie4_5-moe": Architecture(
        "ernie4_5_moe", interleaved=True, flags={"use_bias": (*ATTENTION, *MLP)},
        experts=("moe_num_experts", "moe_k", "moe_intermediate_size"), no_effect=("expert_shared_feed_forward_length",),
        reads={
            "moe_num_shared_experts": (COUNT, "expert_shared_count"),
            "moe_layer_start_index": (COUNT, "leading_dense_block_count"),
            "moe_layer_interval": (STEP, "interleave_moe_layer_step"),
        },
        adds={"moe_layer_interval": 1}, writes=written_shared,
    ),
    "minimax-m2": Architecture("minimax_m2", experts=LOCAL_EXPERTS, score=SIGMOID),
    "minimax-m3": Architecture(
        "minimax_m3_vl_text", renamed=BLOCK_INDEXER, experts=LOCAL_EXPERTS, score=SIGMOID,
        fixed={"expert_weights_norm": True}, reads=BLOCK_READS,
        adds={"routed_scaling_factor": 1.0, "rotary_dim": None}, more=_minimax_m3, writes=_written_minimax_m3,
    ),
    "gpt-oss": Architecture(
        "gpt_oss", renamed=AFTER_ATTENTION, flags=BIASED, experts=LOCAL_EXPERTS, score=SOFTMAX_OF_CHOSEN,
        reads={"sliding_window": (SIZE, "attention.sliding_window")}, rope=gpt_oss_rope,
    ),
    "llama4": Architecture(
        "llama4_text", interleaved=True, experts=LOCAL_EXPERTS, score=SIGMOID,
        fixed={"attention.sliding_window": 8192, "leading_dense_block_count": 0},
        reads={"interleave_moe_layer_step": (STEP, "interleave_moe_layer_step")},
        adds={"attention_bias": False, "interleave_moe_layer_step": 1}, more=_llama4,
    ),
    "qwen3next": Architecture(
        "qwen3_next", drafts=True, renamed=gguf_delta.RENAMED, fused=gguf_delta.FUSED,
        by_head=(*GATED_QUERIES, "ssm_ba.weight"), experts=QWEN_EXPERTS, fixed=NEXT_FIXED, reads=NEXT_READS,
        adds={"partial_rotary_factor": 1.0, "norm_topk_prob": True}, more=gguf_delta.delta_facts,
    ),
    "qwen35": Architecture(
        "qwen3_5_text", drafts=True, heads_in_rounds=True, renamed=gguf_delta.RENAMED,
        fused=gguf_delta.OF_QWEN3_5, by_head=GATED_QUERIES, adds={"partial_rotary_factor": 1.0},
        more=gguf_delta.delta_facts,
    ),
    "qwen35moe": Architecture(
        "qwen3_5_moe_text", drafts=True, heads_in_rounds=True, renamed=gguf_delta.RENAMED,
        fused=gguf_delta.OF_QWEN3_5, by_head=GATED_QUERIES, experts=QWEN_EXPERTS, fixed=NEXT_FIXED, reads=NEXT_READS,
        adds={"partial_rotary_factor": 1.0, "norm_topk_prob": True}, more=gguf_delta.delta_facts,
    ),
    # DeepSeek-V2 too, and GLM-4.7-Flash and Kimi-K2, which are V3 by other numbers.
    "deepseek2": Architecture(
        "deepseek_v3", drafts=True, interleaved=True, latent=True, experts=ROUTED_EXPERTS, score=None,
        reads=ROUTED_READS, adds={"routed_scaling_factor": 1.0}, more=_deepseek,
    ),
    "deepseek32": Architecture(
        "deepseek_v32", drafts=True, interleaved=True, latent=True, experts=ROUTED_EXPERTS, score=None,
        reads=INDEXER_READS, adds={"routed_scaling_factor": 1.0}, more=_deepseek_v32,
    ),
    "glm-dsa": Architecture(
        "glm_moe_dsa", drafts=True, interleaved=True, latent=True, index_interleaved=True, experts=ROUTED_EXPERTS,
        score=None, reads=INDEXER_READS, adds={"routed_scaling_factor": 1.0}, more=_glm_moe_dsa,
        writes=gguf_streams.written_indexers,
    ),
    "minicpm3": Architecture("minicpm3", latent=True),
    "kimi-linear": Architecture(
        "kimi_linear", latent=True, renamed=gguf_delta.KIMI, experts=ROUTED_EXPERTS, score=SIGMOID, reads=ROUTED_READS,
        fixed={"expert_weights_norm": True}, more=gguf_delta.kimi_facts, prepared=gguf_delta.kimi_keys,
        writes=gguf_delta.written_kimi, with_ones={"self_attn.a_log.weight": (-1, 1)},
    ),
    "kimi-k3": Architecture(
        "kimi_linear", latent=True, renamed=gguf_kimi_k3.RENAMED, experts=ROUTED_EXPERTS, score=SIGMOID,
        reads={**ROUTED_READS, "norm_topk_prob": (Config.get, "expert_weights_norm")},
        adds={"norm_topk_prob": False, "routed_scaling_factor": 1.0}, more=gguf_kimi_k3.k3_facts,
        prepared=gguf_delta.kimi_keys, writes=gguf_kimi_k3.written_k3,
    ),
    "minimax-01": Architecture(
        "minimax", renamed=gguf_delta.LIGHTNING, fused=gguf_delta.LIGHTNING_FUSED, by_head=("attn_qkv.weight",),
        experts=LOCAL_EXPERTS, fixed={"expert_weights_norm": True}, more=gguf_delta.lightning_facts,
        prepared=lambda own: {"expert_feed_forward_length": own.get("feed_forward_length"), **own},
        writes=gguf_delta.written_lightning,
    ),
    "hy_v4": Architecture(
        "hy_v4", interleaved=True, index_interleaved=True, index_last=True, latent=True,
        renamed=gguf_streams.HYPER, experts=ROUTED_EXPERTS, score=SIGMOID,
        fixed={"expert_weights_norm": True},
        reads={
            **ROUTED_READS, "hc_mult": (SIZE, "hyper_connection.count"), "hc_eps": (NUMBER, "hyper_connection.epsilon"),
            "hc_magnitude": (NUMBER, "hyper_connection.magnitude"),
            "index_topk": (ANY_SIZE, "attention.indexer.top_k"),
            "index_n_heads": (ANY_SIZE, "attention.indexer.head_count"),
            "index_head_dim": (ANY_SIZE, "attention.indexer.key_length"),
        },
        adds={"routed_scaling_factor": 1.0}, more=gguf_streams.hy_v4_facts, writes=gguf_streams.written_hy_v4,
    ),
    "deepseek4": Architecture(
        "deepseek_v4", renamed=gguf_streams.COMPRESSED, experts=ROUTED_EXPERTS, score=SQRT_SOFTPLUS,
        fixed={"expert_weights_norm": True, "expert_shared_count": 1},
        reads={
            "q_lora_rank": (SIZE, "attention.q_lora_rank"), "o_lora_rank": (SIZE, "attention.output_lora_rank"),
            "o_groups": (SIZE, "attention.output_group_count"), "sliding_window": (SIZE, "attention.sliding_window"),
            "compress_rope_theta": (NUMBER, "attention.compress_rope_freq_base"),
            "index_topk": (ANY_SIZE, "attention.indexer.top_k"),
            "index_n_heads": (ANY_SIZE, "attention.indexer.head_count"),
            "index_head_dim": (ANY_SIZE, "attention.indexer.key_length"),
            "hc_mult": (SIZE, "hyper_connection.count"), "hc_eps": (NUMBER, "hyper_connection.epsilon"),
            "hc_sinkhorn_iters": (SIZE, "hyper_connection.sinkhorn_iterations"),
            "num_hash_layers": (COUNT, "hash_layer_count"), "routed_scaling_factor": (NUMBER, "expert_weights_scale"),
        },
        adds={"routed_scaling_factor": 1.0}, more=gguf_streams.deepseek_v4_facts,
        writes=gguf_streams.written_compressed,
        prepared=lambda own: {**own, "feed_forward_length": own.get("expert_feed_forward_length")},
    ),
    "step35": Architecture(
        "step3p5", renamed={"self_attn.g_proj": "attn_gate"}, flags=BIASED, experts=ROUTED_EXPERTS, score=SIGMOID,
        fixed={"moe_every_n_layers": 1, "expert_weights_norm": True},
        reads={
            "share_expert_dim": (SIZE, "expert_shared_feed_forward_length"),
            "moe_router_scaling_factor": (NUMBER, "expert_weights_scale"),
            "sliding_window": (SIZE, "attention.sliding_window"), "num_sliding_attention_heads": (SIZE, SLIDING_HEADS),
        },
        adds={"moe_router_scaling_factor": 1.0}, more=_step, rope=step_rope, prepared=_step_keys,
    ),
    **gguf_hunyuan.ARCHITECTURES,
    **gguf_pools.ARCHITECTURES,
}  # fmt: skip
