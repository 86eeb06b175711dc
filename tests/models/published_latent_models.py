"""config.json texts of published models with latent attention, cut to the keys that say something, and how large the
models are.

`total` counts every parameter of the text decoder without the layers that guess further tokens; `active` leaves out
the experts that a token does not go to. Rounded, they are what the vendors state: 15.7 and 2.4 billion, 236 and 21, 671
and 37, 16 and 3, a thousand and 32, 30 and 3, 4. The active ones count the embedding.
"""

from __future__ import annotations

from typing import Any

from published_models import Published

DEEPSEEK: dict[str, Any] = {
    "attention_bias": False, "attention_dropout": 0.0, "aux_loss_alpha": 0.001, "hidden_act": "silu",
    "initializer_range": 0.02, "kv_lora_rank": 512, "moe_layer_freq": 1, "pretraining_tp": 1, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_theta": 10000, "seq_aux": True, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "use_cache": True, "v_head_dim": 128,
}  # fmt: skip
YARN = {
    "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
    "original_max_position_embeddings": 4096, "type": "yarn",
}  # fmt: skip
V2 = {
    **DEEPSEEK, "architectures": ["DeepseekV2ForCausalLM"], "bos_token_id": 100000, "eos_token_id": 100001,
    "first_k_dense_replace": 1, "max_position_embeddings": 163840, "model_type": "deepseek_v2",
    "n_shared_experts": 2, "norm_topk_prob": False, "num_experts_per_tok": 6, "rope_scaling": YARN,
    "scoring_func": "softmax", "vocab_size": 102400,
}  # fmt: skip
V2_LITE = {
    **V2, "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_group": 1,
    "n_routed_experts": 64, "num_attention_heads": 16, "num_hidden_layers": 27, "num_key_value_heads": 16,
    "q_lora_rank": None, "routed_scaling_factor": 1.0, "topk_group": 1, "topk_method": "greedy",
}  # fmt: skip
V2_WHOLE = {
    **V2, "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536, "n_group": 8,
    "n_routed_experts": 160, "num_attention_heads": 128, "num_hidden_layers": 60, "num_key_value_heads": 128,
    "q_lora_rank": 1536, "routed_scaling_factor": 16.0, "topk_group": 3, "topk_method": "group_limited_greedy",
}  # fmt: skip
SIGMOID = {
    **DEEPSEEK, "architectures": ["DeepseekV3ForCausalLM"], "ep_size": 1, "model_type": "deepseek_v3",
    "norm_topk_prob": True, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
}  # fmt: skip
V3 = {
    **SIGMOID, "bos_token_id": 0, "eos_token_id": 1, "first_k_dense_replace": 3, "hidden_size": 7168,
    "intermediate_size": 18432, "max_position_embeddings": 163840, "moe_intermediate_size": 2048, "n_group": 8,
    "n_routed_experts": 256, "n_shared_experts": 1, "num_attention_heads": 128, "num_experts_per_tok": 8,
    "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536,
    "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}, "routed_scaling_factor": 2.5, "topk_group": 4,
    "vocab_size": 129280,
}  # fmt: skip
MOONLIGHT = {
    **SIGMOID, "bos_token_id": 163584, "eos_token_id": 163586, "first_k_dense_replace": 1, "hidden_size": 2048,
    "intermediate_size": 11264, "max_position_embeddings": 8192, "moe_intermediate_size": 1408, "n_group": 1,
    "n_routed_experts": 64, "n_shared_experts": 2, "num_attention_heads": 16, "num_experts_per_tok": 6,
    "num_hidden_layers": 27, "num_key_value_heads": 16, "num_nextn_predict_layers": 0, "q_lora_rank": None,
    "rms_norm_eps": 1e-05, "rope_theta": 50000.0, "routed_scaling_factor": 2.446, "topk_group": 1,
    "vocab_size": 163840,
}  # fmt: skip
KIMI_K2 = {
    **SIGMOID, "model_type": "kimi_k2", "bos_token_id": 163584, "eos_token_id": 163585, "first_k_dense_replace": 1,
    "hidden_size": 7168, "intermediate_size": 18432, "max_position_embeddings": 131072, "moe_intermediate_size": 2048,
    "n_group": 1, "n_routed_experts": 384, "n_shared_experts": 1, "num_attention_heads": 64, "num_experts_per_tok": 8,
    "num_hidden_layers": 61, "num_key_value_heads": 64, "num_nextn_predict_layers": 0, "q_lora_rank": 1536,
    "rope_scaling": {**YARN, "beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0, "mscale": 1.0, "mscale_all_dim": 1.0},
    "rope_theta": 50000.0, "routed_scaling_factor": 2.827, "topk_group": 1, "vocab_size": 163840,
}  # fmt: skip
KIMI_K25 = {
    "architectures": ["KimiK25ForConditionalGeneration"], "model_type": "kimi_k25", "dtype": "bfloat16",
    "tie_word_embeddings": False, "vision_config": {"vt_hidden_size": 1152},
    "text_config": {**KIMI_K2, "max_position_embeddings": 262144, "rope_scaling": {
        **YARN, "factor": 64.0, "mscale": 1.0, "mscale_all_dim": 1.0}},
}  # fmt: skip
GLM_4_7_FLASH = {
    "architectures": ["Glm4MoeLiteForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "dtype": "bfloat16", "eos_token_id": [154820, 154827, 154829], "first_k_dense_replace": 1, "hidden_act": "silu",
    "hidden_size": 2048, "intermediate_size": 10240, "kv_lora_rank": 512, "max_position_embeddings": 202752,
    "model_type": "glm4_moe_lite", "moe_intermediate_size": 1536, "n_group": 1, "n_routed_experts": 64,
    "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": 20, "num_experts_per_tok": 4,
    "num_hidden_layers": 47, "num_key_value_heads": 20, "num_nextn_predict_layers": 1, "pad_token_id": 154820,
    "partial_rotary_factor": 1.0, "q_lora_rank": 768, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 1000000, "routed_scaling_factor": 1.8,
    "tie_word_embeddings": False, "topk_group": 1, "topk_method": "noaux_tc", "v_head_dim": 256, "vocab_size": 154880,
}  # fmt: skip
MINICPM3_4B = {
    "architectures": ["MiniCPM3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
    "dim_model_base": 256, "eos_token_id": [2, 73440], "hidden_act": "silu", "hidden_size": 2560,
    "initializer_range": 0.1, "intermediate_size": 6400, "kv_lora_rank": 256, "max_position_embeddings": 32768,
    "model_type": "minicpm3", "num_attention_heads": 40, "num_hidden_layers": 62, "num_key_value_heads": 40,
    "q_lora_rank": 768, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "rms_norm_eps": 1e-05, "scale_depth": 1.4,
    "rope_scaling": {"type": "longrope", "original_max_position_embeddings": 32768, "short_factor": [1.0] * 16,
                     "long_factor": [1.0] * 16},
    "scale_emb": 12, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 73448,
}  # fmt: skip

PUBLISHED = {
    "DeepSeek-V2-Lite": Published(V2_LITE, 15_706_484_224, 2_661_150_208),
    "DeepSeek-V2": Published(V2_WHOLE, 235_741_434_880, 21_375_800_320),
    "DeepSeek-V3": Published(V3, 671_026_419_200, 37_552_297_472),
    "Moonlight-16B-A3B": Published(MOONLIGHT, 15_960_110_208, 2_914_776_192),
    "Kimi-K2": Published(KIMI_K2, 1_026_408_232_448, 32_861_500_928),
    "Kimi-K2.5": Published(KIMI_K25, 1_026_408_232_448, 32_861_500_928),
    "GLM-4.7-Flash": Published(GLM_4_7_FLASH, 29_943_393_920, 3_896_766_080),
    "MiniCPM3-4B": Published(MINICPM3_4B, 4_073_875_968, 4_073_875_968),
}
