"""Qwen 2, 2.5 and 3, and the text halves of their multimodal versions.

Text alone gives every section of a multimodal rotary embedding the same position, which makes it the plain one.
"""

from __future__ import annotations

from collections.abc import Mapping

from landrace.kernels.head_form import QkNorm
from landrace.models.families.config import Config
from landrace.models.families.dense import n_layers, read_attention, read_decoder, read_mlp, with_windows
from landrace.models.families.family import INSIDE, WRAPPED, Family, TextHalf
from landrace.models.mixer_spec import Gqa
from landrace.models.spec import ModelSpec

QWEN2 = {
    "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0, "tie_word_embeddings": False, "use_sliding_window": False, "sliding_window": 4096,
    "max_window_layers": 28,
}  # fmt: skip
QWEN3 = {**QWEN2, "head_dim": 128, "attention_bias": False}
QWEN2_VL = {
    **QWEN2, "vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1_000_000.0,
    "max_window_layers": 80,
}  # fmt: skip
QWEN2_5_OMNI = {
    **QWEN2, "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "rope_theta": 1_000_000.0, "sliding_window": 32768,
}  # fmt: skip


def _upper_windows(config: Config, attention: Gqa) -> list[Gqa]:
    """The layers from `max_window_layers` on slide."""
    first = config.get("max_window_layers")
    if isinstance(first, bool) or not isinstance(first, (int, type(None))):
        raise config.wrong("max_window_layers", first, "a number of layers")
    return with_windows(config, attention, [first is not None and n >= first for n in range(n_layers(config))])


def read_qwen2(config: Config) -> ModelSpec:
    attention = read_attention(config, qkv_bias=True)
    return read_decoder(config, _upper_windows(config, attention), read_mlp(config))


def read_qwen3(config: Config) -> ModelSpec:
    attention = read_attention(config, bias=config.flag("attention_bias"), qk_norm=QkNorm("before_rope"))
    return read_decoder(config, _upper_windows(config, attention), read_mlp(config))


FAMILIES: Mapping[str, Family] = {
    "qwen2": Family(read_qwen2, QWEN2),
    "qwen3": Family(read_qwen3, QWEN3),
    "qwen2_vl_text": Family(read_qwen2, QWEN2_VL),
    "qwen2_5_vl_text": Family(read_qwen2, QWEN2_VL),
    "qwen2_5_omni_text": Family(read_qwen2, QWEN2_5_OMNI),
    "qwen3_vl_text": Family(
        read_qwen3,
        {**QWEN3, "max_position_embeddings": 128_000, "rope_theta": 500_000.0},
        fixed={"use_sliding_window": False},
    ),
}

BESIDE_TOWERS = (("model.", ""), ("model.language_model.", ""), ("language_model.model.", "language_model."))
VISION = (r"(model\.)?visual\..*",)
OMNI_CONFIG = (r"(vision|audio)_config", r"position_id_per_seconds|seconds_per_chunk|enable_(audio_output|talker)")

TEXT_HALVES: Mapping[str, TextHalf] = {
    "qwen2_vl": TextHalf("qwen2_vl_text", BESIDE_TOWERS, VISION),
    "qwen2_5_vl": TextHalf("qwen2_5_vl_text", BESIDE_TOWERS, VISION),
    "qwen3_vl": TextHalf(
        "qwen3_vl_text",
        INSIDE,
        VISION,
        tied=("outer",),
    ),
    "qwen2_audio": TextHalf(
        "qwen2",
        WRAPPED,
        (r"(model\.)?(audio_tower|multi_modal_projector)\..*",),
        tied=("text",),
        no_effect=("audio_config", "ignore_index", "vocab_size"),
    ),
    "qwen2_5_omni_thinker": TextHalf(
        "qwen2_5_omni_text",
        BESIDE_TOWERS,
        (r"(model\.)?(visual|audio_tower)\..*",),
        tied=("outer",),
        no_effect=(*OMNI_CONFIG, "ignore_index"),
    ),
    "qwen2_5_omni": TextHalf(
        "qwen2_5_omni_thinker",
        (("thinker.model.", "thinker."),),
        (r"(talker|token2wav)\..*", r"thinker\.(visual|audio_tower)\..*"),
        modules=("thinker.model.language_model.", "thinker."),
        section="thinker_config",
        no_effect=(r"(talker|token2wav)_config", *OMNI_CONFIG),
    ),
}
