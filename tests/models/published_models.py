"""config.json texts of published mixtures of experts, cut to the keys that say something, and how large the models are.

`total` counts every parameter of the text decoder without the layers that guess further tokens; `active` leaves out
the experts that a token does not go to. Rounded, they are what the vendors state (30.5 and 3.3 billion, 235 and 22,
57.4 and 14, 106 and 12, 355 with its guessing layer and 32, 21.8 and 3, 80.4 and 13, 229 and 10, 20.9 and 3.6 without
the embedding, 116.8 and 5.1 likewise, 109 with its vision tower and 17, 316 and 38); the totals of Qwen 3, ERNIE,
Hunyuan, MiniMax and gpt-oss are those of the published files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    config: dict[str, Any]
    total: int
    active: int


QWEN = {
    "attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False,
    "vocab_size": 151936, "decoder_sparse_step": 1, "output_router_logits": False, "router_aux_loss_coef": 0.001,
    "bos_token_id": 151643, "eos_token_id": 151645, "rope_theta": 1000000.0,
}  # fmt: skip
QWEN3 = {
    **QWEN, "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "head_dim": 128, "mlp_only_layers": [],
    "max_position_embeddings": 40960, "model_type": "qwen3_moe", "norm_topk_prob": True, "num_experts": 128,
    "num_experts_per_tok": 8, "num_key_value_heads": 4, "rope_scaling": None, "sliding_window": None,
    "transformers_version": "4.51.0",
}  # fmt: skip
QWEN3_30B_A3B = {
    **QWEN3, "hidden_size": 2048, "intermediate_size": 6144, "max_window_layers": 48, "moe_intermediate_size": 768,
    "num_attention_heads": 32, "num_hidden_layers": 48,
}  # fmt: skip
QWEN3_235B_A22B = {
    **QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "max_window_layers": 94, "moe_intermediate_size": 1536,
    "num_attention_heads": 64, "num_hidden_layers": 94,
}  # fmt: skip
QWEN2_57B_A14B = {
    **QWEN, "architectures": ["Qwen2MoeForCausalLM"], "hidden_size": 3584, "intermediate_size": 18944,
    "max_position_embeddings": 131072, "max_window_layers": 28, "model_type": "qwen2_moe", "num_attention_heads": 28,
    "num_hidden_layers": 28, "num_key_value_heads": 4, "sliding_window": 65536, "num_experts": 64,
    "num_experts_per_tok": 8, "norm_topk_prob": False, "moe_intermediate_size": 2560,
    "shared_expert_intermediate_size": 20480, "transformers_version": "4.40.1",
}  # fmt: skip
GLM = {
    "architectures": ["Glm4MoeForCausalLM"], "attention_bias": True, "attention_dropout": 0.0, "pad_token_id": 151329,
    "eos_token_id": [151329, 151336, 151338], "head_dim": 128, "hidden_act": "silu", "partial_rotary_factor": 0.5,
    "initializer_range": 0.02, "max_position_embeddings": 131072, "model_type": "glm4_moe", "norm_topk_prob": True,
    "num_attention_heads": 96, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "num_experts_per_tok": 8,
    "num_key_value_heads": 8, "num_nextn_predict_layers": 1, "rms_norm_eps": 1e-05, "rope_scaling": None,
    "rope_theta": 1000000, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.54.0",
    "use_cache": True, "vocab_size": 151552,
}  # fmt: skip
GLM_4_5_AIR = {
    **GLM, "hidden_size": 4096, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 128,
    "routed_scaling_factor": 1.0, "first_k_dense_replace": 1, "num_hidden_layers": 46, "use_qk_norm": False,
}  # fmt: skip
GLM_4_5 = {
    **GLM, "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536, "n_routed_experts": 160,
    "routed_scaling_factor": 2.5, "first_k_dense_replace": 3, "num_hidden_layers": 92, "use_qk_norm": True,
}  # fmt: skip
ERNIE_21B_A3B = {
    "architectures": ["Ernie4_5_MoeForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "hidden_size": 2560, "intermediate_size": 12288, "max_position_embeddings": 131072, "model_type": "ernie4_5_moe",
    "num_attention_heads": 20, "num_key_value_heads": 4, "num_hidden_layers": 28, "pad_token_id": 0,
    "rms_norm_eps": 1e-05, "use_cache": False, "vocab_size": 103424, "rope_theta": 500000.0, "use_rmsnorm": True,
    "use_bias": False, "moe_num_experts": 64, "moe_num_shared_experts": 2, "moe_layer_start_index": 1,
    "moe_intermediate_size": 1536, "moe_capacity": [64, 64, 64], "moe_k": 6, "moe_layer_interval": 1,
    "moe_use_aux_free": True, "num_nextn_predict_layers": 1, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}  # fmt: skip
HUNYUAN_A13B = {
    "architectures": ["HunYuanMoEV1ForCausalLM"], "attention_bias": False, "attention_dropout": 0.1,
    "attention_head_dim": 128, "cla_share_factor": 2, "eod_token_id": 127967, "eos_token_id": 127960, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 3072,
    "max_position_embeddings": 32768, "mlp_bias": False, "model_type": "hunyuan_v1_moe", "moe_drop_tokens": False,
    "moe_intermediate_size": [3072] * 32, "moe_layer_num_skipped": 0, "moe_random_routing_dropped_token": False,
    "moe_topk": [8] * 32, "norm_topk_prob": True, "norm_type": "rms", "num_attention_heads": 32, "num_experts": 64,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "num_shared_expert": [1] * 32, "pad_id": 127961,
    "position_embedding_xdrope": False, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {"alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0,
                     "mscale_all_dim": 1.0, "type": "dynamic"},
    "rope_theta": 10000.0, "routed_scaling_factor": 1.0, "sep_token_id": 127962, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "use_cache": True, "use_cla": False, "use_mixed_mlp_moe": True, "use_qk_norm": True,
    "use_rotary_pos_emb": True, "vocab_size": 128167,
}  # fmt: skip
MINIMAX_M2 = {
    "architectures": ["MiniMaxM2ForCausalLM"], "attention_dropout": 0.0, "attn_type_list": [1] * 62, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 3072, "initializer_range": 0.02, "intermediate_size": 1536,
    "layernorm_full_attention_beta": 1.0, "layernorm_linear_attention_beta": 1.0, "layernorm_mlp_beta": 1.0,
    "max_position_embeddings": 196608, "mlp_intermediate_size": 8192, "model_type": "minimax_m2",
    "mtp_transformer_layers": 1, "num_attention_heads": 48, "num_experts_per_tok": 8, "num_hidden_layers": 62,
    "num_key_value_heads": 8, "num_local_experts": 256, "num_mtp_modules": 3, "output_router_logits": False,
    "qk_norm_type": "per_layer", "rms_norm_eps": 1e-06, "rope_theta": 5000000, "rotary_dim": 64,
    "router_aux_loss_coef": 0.001, "router_jitter_noise": 0.0, "scoring_func": "sigmoid", "shared_intermediate_size": 0,
    "shared_moe_mode": "sigmoid", "sliding_window": None, "tie_word_embeddings": False, "use_cache": True,
    "use_mtp": True, "use_qk_norm": True, "use_routing_bias": True, "vocab_size": 200064,
}  # fmt: skip
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"], "attention_bias": True, "attention_dropout": 0.0, "eos_token_id": 200002,
    "experts_per_token": 4, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2880, "initial_context_length": 4096,
    "initializer_range": 0.02, "intermediate_size": 2880, "max_position_embeddings": 131072, "model_type": "gpt_oss",
    "num_attention_heads": 64, "num_experts_per_tok": 4, "num_key_value_heads": 8, "output_router_logits": False,
    "pad_token_id": 199999, "rms_norm_eps": 1e-05, "rope_theta": 150000, "router_aux_loss_coef": 0.9,
    "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
                     "rope_type": "yarn", "truncate": False},
    "sliding_window": 128, "swiglu_limit": 7.0, "tie_word_embeddings": False, "use_cache": True, "vocab_size": 201088,
}  # fmt: skip
WINDOWS = ["sliding_attention", "full_attention"]
GPT_OSS_20B = {**GPT_OSS, "num_hidden_layers": 24, "num_local_experts": 32, "layer_types": WINDOWS * 12}
GPT_OSS_120B = {**GPT_OSS, "num_hidden_layers": 36, "num_local_experts": 128, "layer_types": WINDOWS * 18}
LLAMA_4_SCOUT = {
    "architectures": ["Llama4ForConditionalGeneration"], "boi_token_index": 200080, "eoi_token_index": 200081,
    "image_token_index": 200092, "model_type": "llama4", "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "text_config": {
        "attention_bias": False, "attention_chunk_size": 8192, "attention_dropout": 0.0, "bos_token_id": 200000,
        "eos_token_id": [200001, 200007, 200008], "for_llm_compressor": False, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 5120, "initializer_range": 0.02, "interleave_moe_layer_step": 1, "intermediate_size": 8192,
        "intermediate_size_mlp": 16384, "max_position_embeddings": 10485760, "model_type": "llama4_text",
        "no_rope_layers": [], "num_attention_heads": 40, "num_experts_per_tok": 1, "num_hidden_layers": 48,
        "num_key_value_heads": 8, "num_local_experts": 16, "output_router_logits": False, "pad_token_id": 200018,
        "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "router_aux_loss_coef": 0.001, "router_jitter_noise": 0.0,
        "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "use_cache": True, "use_qk_norm": True, "vocab_size": 202048,
    },
    "vision_config": {"hidden_size": 1408, "model_type": "llama4_vision_model"},
}  # fmt: skip
STEP3 = {
    "architectures": ["Step3VLForConditionalGeneration"], "model_type": "step3_vl", "torch_dtype": "bfloat16",
    "text_config": {
        "architectures": ["Step3TextForCausalLM"], "hidden_size": 7168, "intermediate_size": 18432,
        "num_attention_heads": 64, "num_attention_groups": 1, "num_hidden_layers": 61, "max_seq_len": 65536,
        "vocab_size": 128815, "rms_norm_eps": 1e-5, "moe_intermediate_size": 5120, "moe_num_experts": 48,
        "moe_top_k": 3, "rope_theta": 500000, "rope_scaling": None, "max_position_embedding": 65536,
        "share_expert_dim": 5120, "share_q_dim": 2048, "head_dim": 256, "norm_expert_weight": False,
        "moe_layers_enum": ",".join(map(str, range(4, 60))),
    },
    "vision_config": {"width": 1792},
}  # fmt: skip

PUBLISHED = {
    "Qwen3-30B-A3B": Published(QWEN3_30B_A3B, 30_532_122_624, 3_353_032_704),
    "Qwen3-235B-A22B": Published(QWEN3_235B_A22B, 235_093_634_560, 22_190_763_520),
    "Qwen2-57B-A14B": Published(QWEN2_57B_A14B, 57_408_658_944, 14_249_270_784),
    "GLM-4.5-Air": Published(GLM_4_5_AIR, 106_852_251_264, 13_424_129_664),
    "GLM-4.5": Published(GLM_4_5, 352_797_829_024, 33_632_266_144),
    "ERNIE-4.5-21B-A3B": Published(ERNIE_21B_A3B, 21_825_437_888, 3_352_150_208),
    "Hunyuan-A13B": Published(HUNYUAN_A13B, 80_393_183_232, 12_747_448_320),
    "MiniMax-M2": Published(MINIMAX_M2, 228_689_764_864, 11_030_553_088),
    "gpt-oss-20b": Published(GPT_OSS_20B, 20_914_757_184, 4_187_440_704),
    "gpt-oss-120b": Published(GPT_OSS_120B, 116_829_156_672, 5_711_982_912),
    "Llama-4-Scout": Published(LLAMA_4_SCOUT, 107_769_861_120, 17_172_894_720),
    "Step-3": Published(STEP3, 316_294_538_240, 38_841_328_640),
}
