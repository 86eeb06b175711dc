"""Tiny models to quantise: configurations, a tokenizer, a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from landrace.text import load_tokenizer

VOCABULARY = 264
"""Of which the last ones have no token."""
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "eos_token_id": 260,
}
QWEN3_MOE: dict[str, Any] = {
    **LLAMA,
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "tie_word_embeddings": True,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
DEEPSEEK_V3: dict[str, Any] = {
    **LLAMA,
    "model_type": "deepseek_v3",
    "architectures": ["DeepseekV3ForCausalLM"],
    "rms_norm_eps": 1e-6,  # That of the norms of latents, which llama.cpp does not keep apart.
    "num_key_value_heads": 4,
    "q_lora_rank": 64,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "moe_intermediate_size": 64,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "n_group": 4,
    "topk_group": 2,
    "num_nextn_predict_layers": 0,
}
DELTA: dict[str, Any] = {
    **LLAMA,
    "num_hidden_layers": 4,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
DELTA_EXPERTS = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "norm_topk_prob": True,
}
SECTIONS = {"rope_parameters": {**DELTA["rope_parameters"], "mrope_section": [4, 2, 2], "mrope_interleaved": True}}
QWEN4 = {
    "model_type": "qwen4_exp_text",
    "output_gate_type": "sigmoid",
    "hc_count": 2,
    "hc_lowrank": 32,
    "indexer_n_heads": 8,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 32,
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
    "ple_layer_ids": [2],
    "ple_embed_dim": 256,
    "ngram_size": 3,
    "heads_per_ngram": 2,
    "ngram_vocab_size_base": 50,
    "make_ngram_vocab_size_divisible_by": 8,
    "split_ngram_parts": 1,
}
KDA: dict[str, Any] = {
    "num_hidden_layers": 4,
    "qk_nope_head_dim": 32,
    "linear_num_heads": 4,
    "linear_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "n_group": 1,
    "topk_group": 1,
}
GLM5_NEXT = {
    **DEEPSEEK_V3,
    **KDA,
    "model_type": "glm5_next_text",
    "architectures": ["Glm5NextForCausalLM"],
    "qk_rope_head_dim": 0,
    "layer_types": [*["linear_attention"] * 3, "indexed_attention"],
    "index_topk": 16,
    "index_kpool": 4,
    "index_head_dim": 32,
    "index_n_heads": 32,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 3,
    "swiglu_limit": 2,
}
INDEXER: dict[str, Any] = {
    "num_hidden_layers": 4,
    "n_group": 1,
    "topk_group": 1,
    "index_topk": 16,
    "index_head_dim": 64,  # llama.cpp rotates by Hadamard matrices of 64.
    "index_n_heads": 32,
    "indexer_types": ["full", "shared", "full", "shared"],
}
HY_V4: dict[str, Any] = {"model_type": "hy_v4", "hc_mult": 2, "hc_eps": 1e-6, "swiglu_limit": 2.0}
MINIMAX_M3: dict[str, Any] = {
    "model_type": "minimax_m3_vl_text",
    "num_hidden_layers": 4,
    "intermediate_size": 64,
    "dense_intermediate_size": 96,
    "shared_intermediate_size": 64,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "routed_scaling_factor": 2.0,
    "rotary_dim": 32,
    "index_n_heads": 2,
    "index_head_dim": 32,
    "index_block_size": 4,
    "index_topk_blocks": 16,  # All: llama.cpp chooses in flash attention alone, whose sums are of float16.
    "index_local_blocks": 1,
    "layer_types": ["full_attention", *["minimax_m3_sparse"] * 3],
    "mlp_layer_types": ["dense", *["sparse"] * 3],
}
GLM4_MOE: dict[str, Any] = {
    "model_type": "glm4_moe",
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "n_group": 1,
    "topk_group": 1,
    "partial_rotary_factor": 1.0,
}
ERNIE_MOE: dict[str, Any] = {
    "model_type": "ernie4_5_moe",
    "moe_num_experts": 8,
    "moe_k": 2,
    "moe_intermediate_size": 64,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1,
    "moe_layer_interval": 1,
}
HUNYUAN_MOE: dict[str, Any] = {
    "model_type": "hunyuan_v1_moe",
    "num_experts": 8,
    "moe_topk": 2,
    "moe_intermediate_size": 512,
    "num_shared_expert": 1,
}
KIMI_K3: dict[str, Any] = {
    **{key: value for key, value in DEEPSEEK_V3.items() if "group" not in key},
    "model_type": "kimi_linear",
    "architectures": ["KimiLinearForCausalLM"],
    "num_hidden_layers": 4,
    "qk_nope_head_dim": 32,
    "mla_use_nope": True,
    "mla_use_output_gate": True,
    "attn_res_block_size": 2,
    "linear_attn_config": {
        "full_attn_layers": [3],
        "kda_layers": [1, 2, 4],
        "num_heads": 4,
        "head_dim": 32,
        "short_conv_kernel_size": 4,
        "gate_lower_bound": -5.0,
        "use_full_rank_gate": True,
    },
    "routed_expert_hidden_size": 32,
    "latent_moe_use_norm": True,
    "hidden_act": "situ",
    "activation_situ_beta": 1.5,
    "activation_situ_linear_beta": 2.5,
}
HY3: dict[str, Any] = {
    "model_type": "hy_v3",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_shared_experts": 2,
    "moe_intermediate_size": 64,
    "router_scaling_factor": 1.5,
    "first_k_dense_replace": 1,
}
CHATGLM: dict[str, Any] = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "padded_vocab_size": VOCABULARY,
    "hidden_size": 256,
    "ffn_hidden_size": 512,
    "num_layers": 2,
    "num_attention_heads": 4,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "kv_channels": 64,
    "seq_length": 256,
    "rope_ratio": 2.0,
    "add_qkv_bias": True,
    "eos_token_id": 260,
}
MINIMAX: dict[str, Any] = {
    "model_type": "minimax",
    "architectures": ["MiniMaxForCausalLM"],
    "num_hidden_layers": 4,
    "rms_norm_eps": 1e-6,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "layer_types": KDA["layer_types"],
    "block_size": 8,
    **{f"{kind}_alpha_factor": 3.5565588200778455 for kind in ("full_attn", "linear_attn", "mlp")},
}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = "The keys are in the blue box. Ключи в синей коробке. 钥匙在蓝色的盒子里。 " * 12


def vocabulary() -> tokenizers.Tokenizer:
    """A token for each byte and a few words, cut as SmolLM2 cuts."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*alphabet, "th", "the", "Ġthe"])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("t", "h"), ("th", "e"), ("Ġ", "the")]))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")])
    return backend


def in_pieces(model: Path, folder: Path, form: str) -> None:
    """The model with a vocabulary that SentencePiece learns, in one file of either kind."""
    import sentencepiece

    folder.mkdir()
    for file in model.iterdir():
        if not file.name.startswith("tokenizer"):
            (folder / file.name).write_bytes(file.read_bytes())
    text = folder.with_suffix(".txt")
    text.write_text("\n".join([TEXT, *(f"the key {number} in the box" for number in range(99))]), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=380, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    if form == "tokenizer.json":
        backend = load_tokenizer(folder).backend
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        backend.decoder = decoders.Sequence(steps)
        backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
        backend.save(str(folder / form))
        (folder / "tokenizer.model").unlink()


class WriteModel(Protocol):
    def __call__(self, config: dict[str, Any], mtp: bool = False) -> Path: ...
