"""Published models by their configurations, and what GGUF files say of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import llama_cpp

QUANTISED = ("Q4_0", "Q8_0", "Q4_K_M")
WHOLE = "BF16"


@dataclass(frozen=True)
class Shape:
    """A published model's configuration, maybe with fewer layers."""

    name: str
    """Of the folder and the GGUF files."""
    architecture: str
    """What GGUF files call the family."""
    config: Mapping[str, Any]
    """The config.json, but for the ids of special tokens."""
    kinds: tuple[str, ...]
    """The GGUF files to make."""
    more: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda config: {}
    """What GGUF files say of the config besides, or otherwise than, what `SETTINGS` takes from it."""

    @property
    def vocab(self) -> int:
        return int(self.config["vocab_size"])

    def whole_config(self, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
        """The config.json."""
        ids = {name: tokenizer.get(f"tokenizer.ggml.{name}") for name in ("bos_token_id", "eos_token_id")}
        return {**self.config, **ids}

    def metadata(self, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
        """The key-values of a GGUF file with BF16 matrices, as llama.cpp's converter would write them."""
        own = {theirs: self.config[ours] for ours, keys in SETTINGS.items() if ours in self.config for theirs in keys}
        scaling = self.config.get("rope_scaling") or {}
        if "expert_count" in own:
            own.setdefault("expert_feed_forward_length", self.config["intermediate_size"])
        own |= {f"rope.scaling.{theirs}": scaling[ours] for ours, theirs in SCALING.items() if ours in scaling}
        own |= self.more(self.config)
        return {
            "general.architecture": self.architecture,
            "general.type": "model",
            "general.name": self.name,
            "general.file_type": int(llama_cpp.LLAMA_FTYPE_MOSTLY_BF16),
            "general.quantization_version": 2,
            **{f"{self.architecture}.{key}": value for key, value in own.items()},
            **tokenizer,
        }


SETTINGS: Mapping[str, tuple[str, ...]] = {
    "num_hidden_layers": ("block_count",),
    "max_position_embeddings": ("context_length",),
    "hidden_size": ("embedding_length",),
    "intermediate_size": ("feed_forward_length",),
    "num_attention_heads": ("attention.head_count",),
    "num_key_value_heads": ("attention.head_count_kv",),
    "head_dim": ("attention.key_length", "attention.value_length"),
    "rms_norm_eps": ("attention.layer_norm_rms_epsilon",),
    "rope_theta": ("rope.freq_base",),
    "sliding_window": ("attention.sliding_window",),
    "num_experts": ("expert_count",),
    "num_local_experts": ("expert_count",),
    "num_experts_per_tok": ("expert_used_count",),
    "n_routed_experts": ("expert_count",),
    "n_shared_experts": ("expert_shared_count",),
    "first_k_dense_replace": ("leading_dense_block_count",),
    "moe_intermediate_size": ("expert_feed_forward_length",),
    "shared_expert_intermediate_size": ("expert_shared_feed_forward_length",),
    "q_lora_rank": ("attention.q_lora_rank",),
    "kv_lora_rank": ("attention.kv_lora_rank",),
    "v_head_dim": ("attention.value_length_mla",),
    "qk_rope_head_dim": ("rope.dimension_count",),
    "linear_conv_kernel_dim": ("ssm.conv_kernel",),
    "linear_key_head_dim": ("ssm.state_size",),
    "linear_num_key_heads": ("ssm.group_count",),
    "linear_num_value_heads": ("ssm.time_step_rank",),
    "full_attention_interval": ("full_attention_interval",),
}
"""A key of config.json to those of GGUF files."""
SCALING = {
    "rope_type": "type",
    "factor": "factor",
    "original_max_position_embeddings": "original_context_length",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}
"""The same for `rope_scaling`."""

QWEN3 = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "hidden_act": "silu",
}
QWEN3_MOE = {
    **QWEN3,
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "tie_word_embeddings": False,
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "architectures": ["GptOssForCausalLM"],
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 4,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "attention_bias": True,
    "hidden_act": "silu",
}
DEEPSEEK_LITE = {
    "model_type": "deepseek_v2",
    "architectures": ["DeepseekV2ForCausalLM"],
    "vocab_size": 102400,
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.0,
    "topk_method": "greedy",
    "n_group": 1,
    "topk_group": 1,
    "max_position_embeddings": 163840,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 40.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 4096,
    },
    "tie_word_embeddings": False,
    "attention_bias": False,
    "hidden_act": "silu",
}
"""With the low-rank queries of DeepSeek-V2, which V2-Lite does without: llama.cpp takes a file for one without by its
26 or 27 layers."""
QWEN3_NEXT = {
    "model_type": "qwen3_next",
    "architectures": ["Qwen3NextForCausalLM"],
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "full_attention_interval": 4,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "norm_topk_prob": True,
    "max_position_embeddings": 262144,
    "partial_rotary_factor": 0.25,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e7,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
OF_EXPERTS = ("moe_", "num_experts", "shared_expert", "norm_topk")
QWEN3_5 = {
    **{key: value for key, value in QWEN3_NEXT.items() if not key.startswith(OF_EXPERTS)},
    "model_type": "qwen3_5_text",
    "architectures": ["Qwen3_5ForCausalLM"],
    "vocab_size": 248320,
    "hidden_size": 1024,
    "intermediate_size": 3584,
    "num_hidden_layers": 24,
    "num_attention_heads": 8,
    "linear_num_value_heads": 16,
    "tie_word_embeddings": True,
}


def of_latents(config: Mapping[str, Any]) -> dict[str, Any]:
    """Latents are one head of keys, whose first channels are its values."""
    rank, turned = config["kv_lora_rank"], config["qk_rope_head_dim"]
    return {
        "attention.head_count_kv": 1,
        "attention.key_length": rank + turned,
        "attention.value_length": rank,
        "attention.key_length_mla": config["qk_nope_head_dim"] + turned,
        "expert_gating_func": 1,
        "expert_weights_scale": config["routed_scaling_factor"],
        "rope.scaling.yarn_log_multiplier": 0.1 * config["rope_scaling"]["mscale_all_dim"],
    }


def of_states(config: Mapping[str, Any]) -> dict[str, Any]:
    turned = round(config["head_dim"] * config["partial_rotary_factor"])
    inner = config["linear_num_value_heads"] * config["linear_value_head_dim"]
    return {"ssm.inner_size": inner, "rope.dimension_count": turned}


def in_sections(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of the pairs that turn, those by time, height and width. In text all turn alike."""
    facts = of_states(config)
    pairs = facts["rope.dimension_count"] // 2
    third = pairs // 3
    return {**facts, "rope.dimension_sections": [pairs - 2 * third, third, third, 0]}


SHAPES = {
    "qwen3-0.6b": Shape("Qwen3-0.6B-random", "qwen3", QWEN3, (WHOLE, *QUANTISED)),
    "qwen3-30b-a3b": Shape("Qwen3-30B-A3B-4-layers-random", "qwen3moe", QWEN3_MOE, (WHOLE, "Q4_K_M")),
    "gpt-oss-20b": Shape("gpt-oss-20b-4-layers-random", "gpt-oss", GPT_OSS, (WHOLE, "Q4_K_M")),
    "deepseek-v2-lite": Shape("DeepSeek-V2-Lite-4-layers-random", "deepseek2", DEEPSEEK_LITE, ("Q4_K_M",), of_latents),
    "qwen3-next": Shape("Qwen3-Next-80B-A3B-4-layers-random", "qwen3next", QWEN3_NEXT, ("Q4_K_M",), of_states),
    "qwen3.5-0.8b": Shape("Qwen3.5-0.8B-random", "qwen35", QWEN3_5, ("Q4_K_M",), in_sections),
}
"""By the name that `--only` takes."""
