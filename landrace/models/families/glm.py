"""GLM-4 (`glm`), GLM-4-0414 (`glm4`), ChatGLM3 and the first GLM-4 files (`chatglm`), and the text halves of
GLM-4.1V, GLM-4.6V and GLM-OCR. All rotate interleaved pairs of a part of each head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from landrace.models.families.config import MAX_LAYERS, MAX_POSITIONS, Config
from landrace.models.families.dense import read_attention, read_decoder, read_mlp
from landrace.models.families.family import Family, TextHalf
from landrace.models.families.names import Naming
from landrace.models.spec import ModelSpec, Sandwich

GLM4 = {
    "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
    "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-7, "rope_theta": 10_000.0, "partial_rotary_factor": 0.5, "tie_word_embeddings": False,
    "attention_bias": True,
}  # fmt: skip
GLM4V_TEXT = {
    key: value
    for key, value in {**GLM4, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5}.items()
    if key not in ("head_dim", "partial_rotary_factor")
}
GLM_OCR_TEXT = {
    **GLM4V_TEXT, "vocab_size": 59392, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16,
    "num_attention_heads": 16, "num_key_value_heads": 8, "max_position_embeddings": 131072, "attention_bias": False,
}  # fmt: skip
CHATGLM = {
    "padded_vocab_size": 65024, "hidden_size": 4096, "ffn_hidden_size": 13696, "num_layers": 28,
    "num_attention_heads": 32, "multi_query_attention": False, "multi_query_group_num": 1, "kv_channels": 128,
    "seq_length": 2048, "layernorm_epsilon": 1e-5, "rope_ratio": 1.0, "add_bias_linear": False, "add_qkv_bias": False,
    "tie_word_embeddings": False,
}  # fmt: skip

NAMING = Naming(fused={"mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj")}, interleaved=True)
CHATGLM_NAMING = Naming(
    prefixes=(("transformer.", "transformer."),),
    embedding="embedding.word_embeddings",
    layer="encoder.layers.{}.",
    norm="encoder.final_layernorm",
    head="output_layer",
    renamed={"self_attn.o_proj": "self_attention.dense", "mlp.down_proj": "mlp.dense_4h_to_h"},
    fused={
        "self_attention.query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "mlp.dense_h_to_4h": ("mlp.gate_proj", "mlp.up_proj"),
    },
    interleaved=True,
)


def read_glm(config: Config) -> ModelSpec:
    attention = read_attention(config, qkv_bias=config.flag("attention_bias"), partial_rotary=True)
    return read_decoder(config, attention, read_mlp(config))


def read_glm4(config: Config) -> ModelSpec:
    attention = read_attention(config, qkv_bias=config.flag("attention_bias"), partial_rotary=True)
    return read_decoder(config, attention, read_mlp(config), residual=Sandwich())


def read_chatglm(config: Config) -> ModelSpec:
    """`glm` under the older key names; half of each head rotates, with the base 10,000 * rope_ratio."""
    heads = config.size("num_attention_heads")
    groups = config.size("multi_query_group_num")
    renamed: dict[str, Any] = {
        "vocab_size": config.size("padded_vocab_size"),
        "hidden_size": config.size("hidden_size"),
        "intermediate_size": config.size("ffn_hidden_size"),
        "num_hidden_layers": config.size("num_layers", MAX_LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": groups if config.flag("multi_query_attention") else heads,
        "head_dim": config.size("kv_channels"),
        "max_position_embeddings": config.size("seq_length", MAX_POSITIONS),
        "rms_norm_eps": config.number("layernorm_epsilon"),
        "rope_theta": 10_000.0 * config.number("rope_ratio"),
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": config.flag("tie_word_embeddings"),
    }
    bias = config.flag("add_bias_linear")
    attention = read_attention(
        Config(renamed), qkv_bias=config.flag("add_qkv_bias") or bias, o_bias=bias, partial_rotary=True
    )
    return read_decoder(Config(renamed), attention, read_mlp(Config(renamed), bias))


FAMILIES: Mapping[str, Family] = {
    "glm": Family(read_glm, GLM4, (NAMING,)),
    "glm4": Family(read_glm4, GLM4, (NAMING,)),
    "glm4v_text": Family(read_glm4, GLM4V_TEXT, (NAMING,)),
    "glm_ocr_text": Family(read_glm4, GLM_OCR_TEXT, (NAMING,)),
    "chatglm": Family(
        read_chatglm,
        CHATGLM,
        (CHATGLM_NAMING,),
        no_effect=(
            "vocab_size",  # Of the tokenizer; the table has padded_vocab_size rows.
            "apply_query_key_layer_scaling|attention_softmax_in_fp32|fp32_residual_connection",  # Rounding only.
            "bias_dropout_fusion|attn_implementation|pre_seq_len|prefix_projection",
        ),
        fixed={
            "rmsnorm": True,
            "post_layer_norm": True,
            "original_rope": True,
            "apply_residual_connection_post_layernorm": False,
            "quantization_bit": 0,
        },
    ),
}

PREFIXES = (("model.language_model.", ""), ("language_model.model.", "language_model."), ("model.", ""))
VISION = (r"(model\.)?visual\..*",)

TEXT_HALVES: Mapping[str, TextHalf] = {
    "glm4v": TextHalf("glm4v_text", PREFIXES, VISION),
    "glm46v": TextHalf("glm4v_text", PREFIXES, VISION, tied=("outer",)),
    "glm_ocr": TextHalf("glm_ocr_text", PREFIXES, VISION),
}
