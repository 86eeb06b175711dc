"""config.json texts with the keys that published models use, and what must be refused."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest

from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.head_form import QkNorm
from landrace.kernels.mask import FULL, Sliding
from landrace.models.declared import shapes_of
from landrace.models.families import FAMILIES, TEXT_HALVES, read_config
from landrace.models.spec import ModelSpec, Plain, Sandwich

LLAMA_3_1_8B = """{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu", "hidden_size": 4096,
"initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": false,
"model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
"pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0,
"high_freq_factor": 4.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rope_theta": 500000.0,
"tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.42.3", "use_cache": true,
"vocab_size": 128256}"""
QWEN_2_5_05B = """{"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
"eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
"intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2",
"num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
"rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
"transformers_version": "4.43.1", "use_cache": true, "use_mrope": false, "use_sliding_window": false,
"vocab_size": 151936}"""
QWEN3_06B = """{"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
"bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
"initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
"model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
"rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null,
"tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": true,
"use_sliding_window": false, "vocab_size": 151936}"""
SMOLLM2_135M = """{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
"bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576,
"initializer_range": 0.041666666666666664, "intermediate_size": 1536, "is_llama_config": true,
"max_position_embeddings": 8192, "mlp_bias": false, "model_type": "llama", "num_attention_heads": 9,
"num_hidden_layers": 30, "num_key_value_heads": 3, "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
"rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000, "tie_word_embeddings": true,
"torch_dtype": "bfloat16", "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
"transformers_version": "4.42.3", "use_cache": true, "vocab_size": 49152}"""
SMOLLM3_3B = """{"architectures": ["SmolLM3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
"bos_token_id": null, "eos_token_id": 128012, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
"intermediate_size": 11008, "max_position_embeddings": 65536, "max_window_layers": 28, "mlp_bias": false,
"model_type": "smollm3", "no_rope_layer_interval": 4, "num_attention_heads": 16, "num_hidden_layers": 36,
"num_key_value_heads": 4, "pad_token_id": 128004, "pretraining_tp": 2, "rms_norm_eps": 1e-06, "rope_scaling": null,
"rope_theta": 5000000.0, "sliding_window": null, "torch_dtype": "bfloat16", "use_cache": false,
"use_sliding_window": false, "vocab_size": 128256}"""
GLM_4_9B_0414 = """{"architectures": ["Glm4ForCausalLM"], "attention_bias": true, "attention_dropout": 0.0,
"eos_token_id": [151329, 151336, 151338], "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096,
"initializer_range": 0.02, "intermediate_size": 13696, "max_position_embeddings": 32768, "model_type": "glm4",
"num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 2, "pad_token_id": 151329,
"partial_rotary_factor": 0.5, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false,
"torch_dtype": "bfloat16", "transformers_version": "4.52.0.dev0", "use_cache": true, "vocab_size": 151552}"""
CHATGLM3_6B = """{"_name_or_path": "THUDM/chatglm3-6b", "model_type": "chatglm", "architectures": ["ChatGLMModel"],
"auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig"}, "add_bias_linear": false, "add_qkv_bias": true,
"apply_query_key_layer_scaling": true, "apply_residual_connection_post_layernorm": false, "attention_dropout": 0.0,
"attention_softmax_in_fp32": true, "bias_dropout_fusion": true, "ffn_hidden_size": 13696,
"fp32_residual_connection": false, "hidden_dropout": 0.0, "hidden_size": 4096, "kv_channels": 128,
"layernorm_epsilon": 1e-05, "multi_query_attention": true, "multi_query_group_num": 2, "num_attention_heads": 32,
"num_layers": 28, "original_rope": true, "padded_vocab_size": 65024, "post_layer_norm": true, "rmsnorm": true,
"seq_length": 8192, "use_cache": true, "torch_dtype": "float16", "transformers_version": "4.27.1",
"tie_word_embeddings": false, "eos_token_id": 2, "pad_token_id": 0}"""
ERNIE_4_5_03B = """{"architectures": ["Ernie4_5_ForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
"head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072,
"max_position_embeddings": 131072, "model_type": "ernie4_5", "num_attention_heads": 16, "num_key_value_heads": 2,
"num_hidden_layers": 18, "pad_token_id": 0, "rms_norm_eps": 1e-05, "use_cache": false, "vocab_size": 103424,
"rope_theta": 500000.0, "use_bias": false, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
"compression_ratio": 1.0}"""
HUNYUAN_05B = """{"add_classification_head": false, "architectures": ["HunYuanDenseV1ForCausalLM"],
"attention_bias": false, "attention_dropout": 0.1, "attention_head_dim": 128, "bos_token_id": 120000,
"cla_share_factor": 2, "class_num": 0, "dense_list": [1024, 0], "eod_token_id": 120020, "eos_token_id": 120020,
"head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "im_end_id": 5, "initializer_range": 0.02,
"intermediate_size": 3584, "max_position_embeddings": 262144, "mlp_bias": false, "model_type": "hunyuan_v1_dense",
"norm_type": "rms", "num_attention_heads": 8, "num_experts": 1, "num_hidden_layers": 24, "num_key_value_heads": 4,
"org_vocab_size": 120818, "pad_id": 120002, "pad_token_id": 120002, "pool_type": "last", "pretraining_tp": 1,
"rms_norm_eps": 1e-05, "rope_scaling": {"alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0,
"mscale": 1.0, "mscale_all_dim": 1.0, "type": "dynamic"}, "rope_theta": 10000.0, "sep_token_id": 4,
"tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true, "use_cla": false, "use_qk_norm": true,
"use_rotary_pos_emb": true, "vocab_size": 120818}"""
SEED_OSS_36B = """{"architectures": ["SeedOssForCausalLM"], "attention_bias": true, "attention_dropout": 0.1,
"attention_out_bias": false, "bos_token_id": 0, "eos_token_id": 2, "head_dim": 128, "hidden_act": "silu",
"hidden_size": 5120, "initializer_range": 0.02, "intermediate_size": 27648, "max_position_embeddings": 524288,
"mlp_bias": false, "model_type": "seed_oss", "num_attention_heads": 80, "num_hidden_layers": 64,
"num_key_value_heads": 8, "pad_token_id": 1, "residual_dropout": 0.1, "rms_norm_eps": 1e-06,
"rope_scaling": {"rope_type": "default"}, "rope_theta": 10000000.0, "tie_word_embeddings": false,
"torch_dtype": "bfloat16", "transformers_version": "4.55.0", "use_cache": true, "vocab_size": 155136}"""
YI_1_5_6B = """{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
"bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
"intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "llama", "num_attention_heads": 32,
"num_hidden_layers": 32, "num_key_value_heads": 4, "pad_token_id": 0, "pretraining_tp": 1, "rms_norm_eps": 1e-06,
"rope_scaling": null, "rope_theta": 5000000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
"transformers_version": "4.37.2", "use_cache": false, "vocab_size": 64000}"""
MINICPM4_05B = json.dumps(
    {
        "architectures": ["MiniCPMForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_minicpm.MiniCPMForCausalLM"},
        "bos_token_id": 1, "eos_token_id": [2, 73440], "pad_token_id": 2, "hidden_act": "silu", "hidden_size": 1024,
        "initializer_range": 0.1, "intermediate_size": 4096, "max_position_embeddings": 32768, "model_type": "minicpm",
        "num_attention_heads": 16, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-05,
        "rope_scaling": {"rope_type": "longrope", "long_factor": [1.0] * 16 + [2.0] * 16,
                         "short_factor": [1.0] * 32, "original_max_position_embeddings": 32768},
        "torch_dtype": "bfloat16", "transformers_version": "4.46.1", "use_cache": True, "vocab_size": 73448,
        "scale_emb": 12, "dim_model_base": 256, "scale_depth": 1.4, "tie_word_embeddings": True,
    }
)  # fmt: skip
QWEN2_VL_2B = """{"architectures": ["Qwen2VLForConditionalGeneration"], "attention_dropout": 0.0,
"bos_token_id": 151643, "eos_token_id": 151645, "vision_start_token_id": 151652, "vision_end_token_id": 151653,
"vision_token_id": 151654, "image_token_id": 151655, "video_token_id": 151656, "hidden_act": "silu",
"hidden_size": 1536, "initializer_range": 0.02, "intermediate_size": 8960, "max_position_embeddings": 32768,
"max_window_layers": 28, "model_type": "qwen2_vl", "num_attention_heads": 12, "num_hidden_layers": 28,
"num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768,
"tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.41.2", "use_cache": true,
"use_sliding_window": false, "vision_config": {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16,
"in_chans": 3, "hidden_size": 1536, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14,
"temporal_patch_size": 2}, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
"vocab_size": 151936}"""
LLAMA_3_2_11B_VISION = json.dumps(
    {
        "architectures": ["MllamaForConditionalGeneration"], "image_token_index": 128256, "model_type": "mllama",
        "torch_dtype": "bfloat16", "transformers_version": "4.45.0.dev0",
        "text_config": {
            "add_cross_attention": False, "bos_token_id": 128000, "chunk_size_feed_forward": 0, "dropout": 0,
            "cross_attention_hidden_size": None, "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
            "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu", "hidden_size": 4096,
            "initializer_range": 0.02, "intermediate_size": 14336, "is_decoder": False, "is_encoder_decoder": False,
            "max_position_embeddings": 131072, "model_type": "mllama_text_model", "num_attention_heads": 32,
            "num_hidden_layers": 40, "num_key_value_heads": 8, "pad_token_id": 128004, "rms_norm_eps": 1e-05,
            "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                             "original_max_position_embeddings": 8192, "rope_type": "llama3"},
            "rope_theta": 500000.0, "tie_word_embeddings": False, "use_cache": True, "vocab_size": 128256,
        },
        "vision_config": {"hidden_size": 1280, "model_type": "mllama_vision_model"},
    }
)  # fmt: skip

PUBLISHED = {
    # name: (text, parameters, layers, head_dim, theta, tied, longest)
    "Llama-3.1-8B": (LLAMA_3_1_8B, 8_030_261_248, 32, 128, 5e5, False, 131072),
    "Qwen2.5-0.5B": (QWEN_2_5_05B, 494_032_768, 24, 64, 1e6, True, 32768),
    "Qwen3-0.6B": (QWEN3_06B, 596_049_920, 28, 128, 1e6, True, 40960),
    "SmolLM2-135M": (SMOLLM2_135M, 134_515_008, 30, 64, 1e5, True, 8192),
    "SmolLM3-3B": (SMOLLM3_3B, 3_075_098_624, 36, 128, 5e6, True, 65536),
    "GLM-4-9B-0414": (GLM_4_9B_0414, 9_400_279_040, 40, 128, 1e4, False, 32768),
    "ChatGLM3-6B": (CHATGLM3_6B, 6_243_584_000, 28, 128, 1e4, False, 8192),
    "ERNIE-4.5-0.3B": (ERNIE_4_5_03B, 360_748_032, 18, 128, 5e5, True, 131072),
    "Hunyuan-0.5B": (HUNYUAN_05B, None, 24, 128, 1e4 * 1000 ** (128 / 126), True, 262144),
    "Seed-OSS-36B": (SEED_OSS_36B, 36_151_104_512, 64, 128, 1e7, False, 524288),
    "Yi-1.5-6B": (YI_1_5_6B, 6_061_035_520, 32, 128, 5e6, False, 4096),
    "MiniCPM4-0.5B": (MINICPM4_05B, 433_873_920, 24, 64, 1e4, True, 32768),
    "Llama-3.2-11B-Vision": (LLAMA_3_2_11B_VISION, 8_030_261_248, 32, 128, 5e5, False, 131072),
    "Qwen2-VL-2B": (QWEN2_VL_2B, 1_543_714_304, 28, 128, 1e6, True, 32768),
}


def read(text: str, **changes: Any) -> ModelSpec:
    return read_config({**json.loads(text), **changes}).spec


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(name: str) -> None:
    text, parameters, layers, head_dim, theta, tied, longest = PUBLISHED[name]
    model = read_config(json.loads(text))
    spec = model.spec
    shapes = shapes_of(spec)
    assert set(shapes) == set(model.sources)
    if parameters is not None:
        assert sum(math.prod(shape) for shape in shapes.values()) == parameters
    assert (len(spec.layers), spec.tie_embeddings, spec.max_length) == (layers, tied, longest)
    attention = spec.layers[0].mixer
    assert attention.rope is not None
    assert (attention.head_dim, attention.rope.theta) == (head_dim, pytest.approx(theta))


def test_details_of_published_models() -> None:
    llama = read(LLAMA_3_1_8B).layers[0].mixer
    assert llama.rope is not None
    assert (llama.rope.kind, llama.rope.factor, llama.rope.original_length) == ("llama3", 8.0, 8192)
    assert (llama.qkv_bias, llama.o_bias, llama.qk_norm, llama.scale) == (False, False, None, 128**-0.5)
    qwen2 = read(QWEN_2_5_05B).layers[0].mixer
    assert (qwen2.qkv_bias, qwen2.o_bias, qwen2.mask) == (True, False, FULL)
    assert read(QWEN3_06B).layers[0].mixer.qk_norm == QkNorm("before_rope")
    assert read(HUNYUAN_05B).layers[0].mixer.qk_norm == QkNorm("after_rope")
    smollm3 = read(SMOLLM3_3B)
    assert [n for n, layer in enumerate(smollm3.layers) if layer.mixer.rope is None] == list(range(3, 36, 4))
    glm = read(GLM_4_9B_0414)
    assert glm.layers[0].residual == Sandwich()
    assert glm.layers[0].mixer.rope is not None
    assert glm.layers[0].mixer.rope.rotary_dim == 64
    minicpm = read(MINICPM4_05B)
    assert (minicpm.embed_scale, minicpm.logit_divisor) == (12, 4)
    assert minicpm.layers[0].residual == Plain(pytest.approx(1.4 / 24**0.5))
    assert minicpm.layers[0].mixer.rope is not None
    assert minicpm.layers[0].mixer.rope.attention_factor == 1.0


def test_names_in_the_checkpoint() -> None:
    sources = read_config(json.loads(GLM_4_9B_0414)).sources
    up = sources["layers.3.mlp.up_proj.weight"]
    assert (up.tensor, up.rows) == ("model.layers.3.mlp.gate_up_proj.weight", (13696, 27392))
    assert sources["layers.3.self_attn.q_proj.weight"].rotary is not None
    sources = read_config(json.loads(CHATGLM3_6B)).sources
    value = sources["layers.0.self_attn.v_proj.bias"]
    assert value.tensor == "transformer.encoder.layers.0.self_attention.query_key_value.bias"
    assert value.rows == (4096 + 256, 4096 + 512)


def test_layers_that_look_at_a_picture_are_passed_by() -> None:
    """The others keep the file's numbers, and rows of the embedding past the vocabulary are left out."""
    model = read_config(json.loads(LLAMA_3_2_11B_VISION))
    queries = [model.sources[f"layers.{n}.self_attn.q_proj.weight"].tensor.split(".")[3] for n in (2, 3, 6, 7, 31)]
    assert queries == ["2", "4", "7", "9", "39"]
    assert model.sources["embed_tokens.weight"].rows == (0, 128256)
    assert any(re.fullmatch(one, "language_model.model.layers.8.mlp.up_proj.weight") for one in model.ignorable)
    assert not any(re.fullmatch(one, "language_model.model.layers.9.mlp.up_proj.weight") for one in model.ignorable)
    text = json.loads(LLAMA_3_2_11B_VISION)["text_config"]
    for wrong in ([40], [3, 3], "3", [-1], list(range(40))):
        with pytest.raises(CheckpointError):
            read_config({**text, "cross_attention_layers": wrong})


def test_prefixes_follow_the_file() -> None:
    """Embedding models drop `model.`; files written by state dict keep a wrapper's own names."""
    config = json.loads(QWEN3_06B)
    assert read_config(config, {"embed_tokens.weight": (151936, 1024)}).sources["norm.weight"].tensor == "norm.weight"
    assert read_config(config).sources["norm.weight"].tensor == "model.norm.weight"
    wrapped = read_config(json.loads(QWEN2_VL_2B), {"model.language_model.embed_tokens.weight": (151936, 1536)})
    assert wrapped.sources["norm.weight"].tensor == "model.language_model.norm.weight"


def test_defaults_are_those_of_the_config_classes() -> None:
    """A config.json that says nothing but its type reads like transformers' own default."""
    transformers = pytest.importorskip("transformers")
    of_others = {"minicpm", "chatglm", "baichuan", "step3_text", "kimi_k2", "minimax_text_01", "minimax_m1"}
    for kind in {*FAMILIES} - of_others:
        theirs = transformers.AutoConfig.for_model(kind) if kind in transformers.CONFIG_MAPPING else None
        if theirs is None:
            theirs = next(
                transformers.AutoConfig.for_model(outer).get_text_config()
                for outer, half in TEXT_HALVES.items()
                if half.family == kind
            )
        written = json.loads(theirs.to_json_string(use_diff=False))
        if kind.startswith(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen2_5_omni", "qwen3_omni", "glm4v", "glm_ocr")):
            written["tie_word_embeddings"] = False  # Their wrappers decide.
        # Some classes' own sizes fit no model without a width of the heads.
        bare = {"head_dim": 128} if kind.startswith(("glm4_moe", "glm4v_moe", "qwen3_omni")) else {}
        bare |= {"num_experts_per_tok": 6} if kind == "deepseek_v2" else {}
        assert read_config({**written, **bare}).spec == read_config({"model_type": kind, **bare}).spec, kind


def test_yarn_reaches_further_than_the_embeddings() -> None:
    spec = read(QWEN_2_5_05B, rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768})
    assert spec.max_length == 131072


def test_draft_layers_are_ignorable() -> None:
    outer = {"model_type": "glm_ocr", "text_config": {"num_hidden_layers": 16, "num_nextn_predict_layers": 1}}
    patterns = read_config(outer).ignorable
    fits = [name for name in ("model.language_model.layers.16.eh_proj.weight", "model.language_model.layers.1.x",
                              "model.visual.blocks.0.norm1.weight", "model.language_model.layers.160.x")
            if any(re.fullmatch(pattern, name) for pattern in patterns)]  # fmt: skip
    assert fits == ["model.language_model.layers.16.eh_proj.weight", "model.visual.blocks.0.norm1.weight"]


UNSUPPORTED = {
    "an unknown key": {"new_attention_trick": 3},
    "soft-capping": {"final_logit_softcapping": 30.0},
    "experts": {"num_local_experts": 8},
    "the activation": {"hidden_act": "gelu"},
    "a rotary kind": {"rope_scaling": {"type": "su", "factor": 2.0}},
    "a rotary key": {"rope_scaling": {"type": "linear", "factor": 2.0, "warp": 1}},
    "a part of the head": {"partial_rotary_factor": 0.5},
    "interleaved rows": {"rope_interleaved": True},
    "alpha outside Hunyuan": {"rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1000.0}},
    "ropes by layer type": {"rope_parameters": {"full_attention": {"rope_theta": 1e4},
                                                "sliding_attention": {"rope_theta": 1e5}}},
    "cross-attention": {"add_cross_attention": True},
}  # fmt: skip


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_is_not_implemented_is_refused(case: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read(YI_1_5_6B, **UNSUPPORTED[case])
    named = next(iter(UNSUPPORTED[case]))
    message = str(caught.value)
    assert any(word in message for word in (named, "otary", "rotates", "rotate"))


HOSTILE = {
    "vocab_size": [10**12, 0, -1, 2.5, "49152", True, None, [1]],
    "hidden_size": [0, 10**9, 4095, float("nan")],
    "num_hidden_layers": [0, 10**6, -3],
    "num_attention_heads": [0, 33],
    "num_key_value_heads": [3, 64, "4"],
    "head_dim": [0, 127, 2],
    "intermediate_size": [0, 10**18],
    "rms_norm_eps": [0, -1e-5, float("inf"), float("nan"), "1e-5", 10**400],
    "rope_theta": [0, -1.0, 1, float("nan"), "5e6"],
    "max_position_embeddings": [0, -1, 1 << 40],
    "tie_word_embeddings": ["yes", 1, None],
    "attention_bias": [1, "no"],
    "rope_scaling": [
        "linear",
        {"type": "linear"},
        {"type": "linear", "factor": 0},
        {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1},
        {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0], "factor": 2.0},
        {"type": "longrope", "short_factor": [0.0] * 64, "long_factor": [1.0] * 64, "factor": 2.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 2.0},
        {"type": "yarn", "factor": 2.0, "truncate": "maybe"},
    ],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in HOSTILE.items() for value in values])
def test_impossible_numbers_are_refused(key: str, value: Any) -> None:
    with pytest.raises(CheckpointError):
        read(YI_1_5_6B, **{key: value})


@pytest.mark.parametrize("config", [{}, {"model_type": 3}, {"model_type": ["llama"]}, {"model_type": "bert"}])
def test_unknown_types_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="type"):
        read_config(config)


def test_a_config_that_is_no_object() -> None:
    with pytest.raises(CheckpointError):
        read_config([])  # type: ignore[arg-type]
    with pytest.raises(CheckpointError):
        read_config({"model_type": "qwen3_vl", "text_config": "none"})


def test_layer_types_must_fit() -> None:
    kinds = ["full_attention"] * 24
    assert read(QWEN_2_5_05B, layer_types=kinds) == read(QWEN_2_5_05B)
    with pytest.raises(CheckpointError):
        read(QWEN_2_5_05B, layer_types=kinds[1:])
    with pytest.raises(CheckpointError, match="sliding"):
        read(QWEN_2_5_05B, layer_types=["sliding_attention", *kinds[1:]])
    with pytest.raises(UnsupportedError, match="linear_attention"):
        read(QWEN_2_5_05B, layer_types=["linear_attention", *kinds[1:]])
    windows = read(QWEN_2_5_05B, use_sliding_window=True, sliding_window=64)
    assert [layer.mixer.mask for layer in windows.layers] == [FULL] * 21 + [Sliding(64)] * 3
