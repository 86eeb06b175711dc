"""Every dense family against transformers: the same saved config.json and weights, the same logits."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from tiny_models import (
    cached_logits,
    load,
    opened_for,
    packed_logits,
    random_ids,
    reference,
    reference_logits,
    save,
    worst,
)

from landrace.kernels.head_form import QkNorm
from landrace.kernels.mask import FULL, Sliding
from landrace.models.decoder import Decoder
from landrace.models.families import read_config
from landrace.models.spec import ModelSpec, Plain

TOLERANCE = 1e-4

SHARED = {
    "llama": ("llama3_rope", "linear_rope", "dynamic_ntk_rope", "yarn_rope", "longrope", "tied_bias_mha"),
    "smollm3": ("sliding",),
    "qwen2": ("sliding", "yarn_rope", "tied"),
    "qwen3": ("tied",),
    "glm": (),
    "glm4": ("no_bias",),
    "ernie4_5": ("bias",),
    "hunyuan_v1_dense": ("ntk_alpha",),
    "seed_oss": (),
    "granite": (),
    "mllama": (),
    "qwen2_vl": (),
    "qwen2_5_vl": (),
    "qwen3_vl": (),
    "qwen2_audio": (),
    "qwen2_5_omni_thinker": (),
    "glm4v": (),
    "glm46v": (),
    "glm_ocr": (),
    "hunyuan_vl": (),
    "qwen2_moe": ("norm_topk",),
    "qwen3_moe": (),
    "qwen3_vl_moe": (),
    "qwen3_omni_moe_thinker": (),
    "glm4_moe": ("no_qk_norm",),
    "glm4v_moe": (),
    "ernie4_5_moe": (),
    "ernie4_5_vl_moe": (),
    "hunyuan_v1_moe": ("ntk_alpha",),
    "hy_v3": (),
    "minimax_m2": (),
    "minimax_m3_vl_text": (),
    "minimax_m3_vl": (),
    "gpt_oss": (),
    "step3p7": (),
    "llama4_text": ("no_qk_norm", "llama3_rope"),
    "llama4": (),
    "deepseek_v2": ("group_limited", "lite_no_qlora", "yarn"),
    "deepseek_v3": ("yarn", "moonlight_like", "kimi_k2_like"),
    "kimi_k25": (),
    "deepseek_v32": ("yarn",),
    "glm_moe_dsa": ("shared_indexer",),
    "glm4_moe_lite": (),
    "minicpm3": ("longrope",),
    "hy_v4": (),
    "qwen4_exp_text": ("ple",),
    "qwen4_exp": (),
    "glm5_next": (),
    "deepseek_v4": (),
    "qwen3_next": (),
    "qwen3_5_text": (),
    "qwen3_5_moe_text": (),
    "qwen3_5": (),
    "qwen3_5_moe": (),
    "minicpmv4_6": (),
    "minicpmv4_7": (),
    "minicpm_ocr": (),
    "kimi_linear": (),
    "minimax": (),
}
SHARED_CASES = [(kind, variant) for kind, variants in SHARED.items() for variant in ("base", *variants)]

SIZES: dict[str, Any] = {
    "vocab_size": 112,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "rms_norm_eps": 3e-3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"head_dim": 20, "rope_parameters": LLAMA3}),
    "llama-biased": ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 9}),
    "qwen2": ("qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "glm": ("glm", {"head_dim": 16}),
    "glm4": ("glm4", {"head_dim": 16, "attention_bias": True}),
    "ernie4_5": ("ernie4_5", {"head_dim": 20, "use_bias": True}),
    "hunyuan": (
        "hunyuan_v1_dense",
        {"head_dim": 20, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 50.0, "factor": 1.0}},
    ),
    "seed_oss": ("seed_oss", {"head_dim": 20, "attention_out_bias": True}),
    "granite": (
        "granite",
        {
            "attention_multiplier": 0.3,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.6,
            "logits_scaling": 2.0,
        },
    ),
}


def check(model: Any, folder: Path, **save_options: Any) -> Decoder:
    """Full and cached logits of our decoder equal the model's."""
    config, tensors = save(model, folder, **save_options)
    ours, decoder = load(config, tensors)
    used = {tensor for source in ours.sources.values() for tensor in source.tensors}
    left_over = [name for name in tensors if name not in used and not _ignorable(name, ours.ignorable)]
    assert left_over == []
    sequences = random_ids()
    theirs = reference_logits(model, sequences)
    assert all(logits.std() > 0.1 for logits in theirs)
    # transformers chooses a table by the length of each sequence, we by the length that the model is opened for.
    together = [sequences] if ours.spec.trained_length is None else [[ids] for ids in sequences]
    for some in together:
        opened = decoder if some is sequences else opened_for(decoder, len(some[0]))
        expected = [theirs[sequences.index(ids)] for ids in some]
        assert worst(packed_logits(opened, some), expected) < TOLERANCE
        assert worst(cached_logits(opened, some, prefill=17), expected) < TOLERANCE
        if torch.cuda.is_available():
            on_gpu = Decoder(opened.spec).load(opened.named_tensors(), device="cuda")
            assert worst([logits.cpu() for logits in packed_logits(on_gpu, some)], expected) < TOLERANCE
    return decoder


def _ignorable(name: str, patterns: tuple[str, ...]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


@pytest.mark.parametrize("case", OWN)
def test_own_tiny_models(case: str, tmp_path: Path) -> None:
    model_type, kwargs = OWN[case]
    check(reference(model_type, {**SIZES, **kwargs}), tmp_path)


@pytest.mark.parametrize(("model_type", "variant"), SHARED_CASES)
def test_shared_tiny_models(model_type: str, variant: str, shared: Path, tmp_path: Path) -> None:
    entry = json.loads((shared / "families" / "tiny_configs.json").read_text())[model_type]
    overrides = {one["name"]: one["override"] for one in entry.get("variants", [])}
    kwargs = entry["kwargs"] if variant == "base" else {**entry["kwargs"], **overrides[variant]}
    of_text = entry["auto_class"] == "AutoModelForCausalLM"
    model = reference(model_type, kwargs, None if of_text else entry["model_class"])
    decoder = check(model, tmp_path / "hub")
    # Without renaming to hub names, as a state dict has them.
    check(model, tmp_path / "native", save_original_format=False)
    if of_text:
        expected = next((v for v in entry.get("variants", []) if v["name"] == variant), entry)["params"]
        # transformers does not count these biases of the router, save ERNIE's, nor its table of experts by token.
        left_out = ("choice_bias", "router.table") if model_type != "ernie4_5_moe" else ("nothing",)
        counted = [parameter.numel() for name, parameter in decoder.named_parameters() if not name.endswith(left_out)]
        assert sum(counted) == expected


def test_every_shared_variant_is_in_the_list(shared: Path) -> None:
    stored = json.loads((shared / "families" / "tiny_configs.json").read_text())
    for model_type, variants in SHARED.items():
        assert {one["name"] for one in stored[model_type].get("variants", [])} == set(variants)


def test_a_wrapper_around_a_wrapper(shared: Path) -> None:
    """Qwen2.5-Omni keeps the thinker in an object of its own, and its tensors under a prefix."""
    entry = json.loads((shared / "families" / "tiny_configs.json").read_text())["qwen2_5_omni_thinker"]
    thinker = {**entry["kwargs"], "model_type": "qwen2_5_omni_thinker"}
    outer = {"model_type": "qwen2_5_omni", "thinker_config": thinker, "talker_config": {}, "token2wav_config": {}}
    inner, wrapped = read_config(thinker), read_config(outer)
    assert wrapped.spec == inner.spec
    assert {name: f"thinker.{source.tensor}" for name, source in inner.sources.items()} == {
        name: source.tensor for name, source in wrapped.sources.items()
    }


def _attention(spec: ModelSpec, **changes: Any) -> ModelSpec:
    layers = tuple(
        replace(layer, mixer=replace(layer.mixer, **{k: v(layer) for k, v in changes.items()})) for layer in spec.layers
    )
    return replace(spec, layers=layers)


FLIPS = {
    "norm_eps": ("llama", lambda s: replace(s, norm_eps=1e-6)),
    "rope theta": ("llama", lambda s: _attention(s, rope=lambda at: replace(at.mixer.rope, theta=1e4))),
    "rope kind": ("llama", lambda s: _attention(s, rope=lambda at: replace(at.mixer.rope, kind="default"))),
    "rope off": ("llama", lambda s: _attention(s, rope=lambda at: None)),
    "attention scale": ("llama", lambda s: _attention(s, scale=lambda at: at.mixer.scale * 1.1)),
    "window": ("qwen2", lambda s: _attention(s, mask=lambda at: FULL)),
    "window by one": ("qwen2", lambda s: _attention(s, mask=lambda at: Sliding(8) if at.mixer.mask != FULL else FULL)),
    "qk-norm order": ("hunyuan", lambda s: _attention(s, qk_norm=lambda at: QkNorm("before_rope"))),
    "qk-norm order back": ("qwen3", lambda s: _attention(s, qk_norm=lambda at: QkNorm("after_rope"))),
    "rotary part": ("glm4", lambda s: _attention(s, rope=lambda at: replace(at.mixer.rope, rotary_dim=16))),
    "NoPE": ("smollm3", lambda s: _attention(s, rope=lambda at: s.layers[0].mixer.rope)),
    "embed_scale": ("granite", lambda s: replace(s, embed_scale=1.0)),
    "residual_scale": ("granite", lambda s: replace(s, layers=tuple(replace(at, residual=Plain()) for at in s.layers))),
    "logit_divisor": ("granite", lambda s: replace(s, logit_divisor=1.0)),
}


@pytest.mark.parametrize("flip", FLIPS)
def test_one_wrong_field_shows(flip: str, tmp_path: Path) -> None:
    """The other direction: the tiny models do feel each field."""
    case, change = FLIPS[flip]
    model = reference(OWN[case][0], {**SIZES, **OWN[case][1]})
    ours, right = load(*save(model, tmp_path))
    wrong = Decoder(change(ours.spec)).load(right.named_tensors())
    sequences = random_ids()
    assert worst(packed_logits(wrong, sequences), reference_logits(model, sequences)) > 10 * TOLERANCE


def test_the_rotary_layout_matters(tmp_path: Path) -> None:
    """Interleaved rows taken as they lie give other logits."""
    model = reference("ernie4_5", {**SIZES, "head_dim": 20})
    config, tensors = save(model, tmp_path)
    ours, _ = load(config, tensors)
    plain = {name: replace(source, rotary=None) for name, source in ours.sources.items()}
    wrong = Decoder(ours.spec).load((name, source.take(tensors)) for name, source in plain.items())
    sequences = random_ids()
    assert worst(packed_logits(wrong, sequences), reference_logits(model, sequences)) > 10 * TOLERANCE


def test_minicpm_is_granite_with_other_names(tmp_path: Path) -> None:
    scale_emb, scale_depth, base = 12, 1.4, 16
    multipliers = {
        "attention_multiplier": 12**-0.5,
        "embedding_multiplier": scale_emb,
        "residual_multiplier": scale_depth / 3**0.5,
        "logits_scaling": SIZES["hidden_size"] / base,
    }
    model = reference("granite", {**SIZES, **multipliers})
    config, tensors = save(model, tmp_path)
    minicpm = {key: value for key, value in config.items() if key not in multipliers}
    minicpm |= {
        "model_type": "minicpm", "scale_emb": scale_emb, "scale_depth": scale_depth, "dim_model_base": base,
        "tie_word_embeddings": False,
    }  # fmt: skip
    _, decoder = load(minicpm, tensors)
    sequences = random_ids()
    assert worst(packed_logits(decoder, sequences), reference_logits(model, sequences)) < TOLERANCE


def test_chatglm_is_glm_with_other_names(tmp_path: Path) -> None:
    model = reference("glm", {**SIZES, "head_dim": 16, "rope_parameters": {
        "rope_type": "default", "rope_theta": 500_000.0, "partial_rotary_factor": 0.5}})  # fmt: skip
    _, tensors = save(model, tmp_path)
    renamed = {
        "transformer.embedding.word_embeddings.weight": tensors["model.embed_tokens.weight"],
        "transformer.encoder.final_layernorm.weight": tensors["model.norm.weight"],
        "transformer.output_layer.weight": tensors["lm_head.weight"],
        "transformer.rotary_pos_emb.inv_freq": torch.zeros(4),
    }
    for n in range(3):
        theirs, ours = f"transformer.encoder.layers.{n}", f"model.layers.{n}"
        for leaf in ("weight", "bias"):
            renamed[f"{theirs}.self_attention.query_key_value.{leaf}"] = torch.cat(
                [tensors[f"{ours}.self_attn.{one}_proj.{leaf}"] for one in "qkv"]
            )
        for name, other in {
            "self_attention.dense": "self_attn.o_proj",
            "mlp.dense_h_to_4h": "mlp.gate_up_proj",
            "mlp.dense_4h_to_h": "mlp.down_proj",
            "input_layernorm": "input_layernorm",
            "post_attention_layernorm": "post_attention_layernorm",
        }.items():
            renamed[f"{theirs}.{name}.weight"] = tensors[f"{ours}.{other}.weight"]
    config = {
        "model_type": "chatglm", "add_bias_linear": False, "add_qkv_bias": True, "ffn_hidden_size": 80,
        "hidden_size": 48, "kv_channels": 16, "layernorm_epsilon": 3e-3, "multi_query_attention": True,
        "multi_query_group_num": 2, "num_attention_heads": 4, "num_layers": 3, "padded_vocab_size": 112,
        "post_layer_norm": True, "rmsnorm": True, "rope_ratio": 50, "seq_length": 128, "original_rope": True,
    }  # fmt: skip
    family, decoder = load(config, renamed)
    assert _ignorable("transformer.rotary_pos_emb.inv_freq", family.ignorable)
    sequences = random_ids()
    assert worst(packed_logits(decoder, sequences), reference_logits(model, sequences)) < TOLERANCE
