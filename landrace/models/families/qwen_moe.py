"""Qwen 1.5 and 2 MoE (`qwen2_moe`), Qwen 3 MoE, and the text halves of Qwen3-VL-MoE and Qwen3-Omni."""

from __future__ import annotations

from collections.abc import Mapping

from landrace.kernels.head_form import QkNorm
from landrace.kernels.router import Router
from landrace.models.families.config import MAX_LAYERS, Config
from landrace.models.families.dense import n_layers, read_attention, read_decoder, read_mlp, with_windows
from landrace.models.families.family import INSIDE, Family, TextHalf
from landrace.models.families.moe import TRAINING, mixed, read_experts, sparse_by_step
from landrace.models.families.names import JOINT, Naming, with_experts
from landrace.models.families.qwen import BESIDE_TOWERS, OMNI_CONFIG, QWEN2, VISION
from landrace.models.ffn_spec import Dense, Moe
from landrace.models.mixer_spec import Gqa
from landrace.models.spec import ModelSpec

QWEN2_MOE = {
    **QWEN2, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16,
    "num_key_value_heads": 16, "decoder_sparse_step": 1, "num_experts": 60, "num_experts_per_tok": 4,
    "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "norm_topk_prob": False, "qkv_bias": True,
}  # fmt: skip
QWEN3_MOE = {
    **QWEN2_MOE, "intermediate_size": 6144, "num_attention_heads": 32, "num_key_value_heads": 4, "num_experts": 128,
    "num_experts_per_tok": 8, "moe_intermediate_size": 768, "attention_bias": False, "qkv_bias": False,
}  # fmt: skip
QWEN3_VL_MOE = {
    **QWEN2_MOE, "max_position_embeddings": 128_000, "rope_theta": 500_000.0, "attention_bias": False,
    "norm_topk_prob": True,
}  # fmt: skip
QWEN3_OMNI_MOE = {
    **QWEN3_MOE, "vocab_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "rope_theta": 1_000_000.0, "norm_topk_prob": True,
}  # fmt: skip

RENAMED = {"mlp.router": "mlp.gate", "mlp.shared_gate": "mlp.shared_expert_gate"}
NAMINGS = with_experts(RENAMED)
TRANSPOSED = Naming(renamed=RENAMED, fused=JOINT, transposed=tuple(JOINT))


def _read(config: Config, attention: list[Gqa], shared: Dense | None = None) -> ModelSpec:
    experts, chosen = read_experts(config, "num_experts", "num_experts_per_tok")
    moe = Moe(
        experts,
        config.size("moe_intermediate_size"),
        Router(chosen, renorm=config.flag("norm_topk_prob")),
        shared=shared,
        shared_gate=shared is not None,
    )
    return read_decoder(config, attention, mixed(sparse_by_step(config), read_mlp(config), moe))


def read_qwen2_moe(config: Config) -> ModelSpec:
    """Should it use a window, then every other layer below `max_window_layers` slides."""
    last = config.size("max_window_layers", MAX_LAYERS)
    attention = read_attention(config, qkv_bias=config.flag("qkv_bias"))
    layers = with_windows(config, attention, [n % 2 == 0 and n < last for n in range(n_layers(config))])
    return _read(config, layers, Dense(config.size("shared_expert_intermediate_size")))


def read_qwen3_moe(config: Config) -> ModelSpec:
    attention = read_attention(config, bias=config.flag("attention_bias"), qk_norm=QkNorm("before_rope"))
    return _read(config, with_windows(config, attention, [True] * n_layers(config)))


NO_EFFECT = (*TRAINING, "max_window_layers|shared_expert_intermediate_size")
ALIASES = {"num_local_experts": "num_experts"}
FIXED = {"use_sliding_window": False, "norm_topk_prob": True}

FAMILIES: Mapping[str, Family] = {
    "qwen2_moe": Family(read_qwen2_moe, QWEN2_MOE, NAMINGS, ALIASES, no_effect=TRAINING),
    "qwen3_moe": Family(
        read_qwen3_moe,
        QWEN3_MOE,
        NAMINGS,
        ALIASES,
        no_effect=NO_EFFECT,
        fixed={"qkv_bias": False, "use_qk_norm": True},  # Qwen3-Coder says so.
    ),
    "qwen3_vl_moe_text": Family(
        read_qwen3_moe, QWEN3_VL_MOE, (TRANSPOSED, *NAMINGS), ALIASES, no_effect=NO_EFFECT, fixed=FIXED
    ),
    "qwen3_omni_moe_text": Family(read_qwen3_moe, QWEN3_OMNI_MOE, NAMINGS, ALIASES, no_effect=NO_EFFECT),
}

TEXT_HALVES: Mapping[str, TextHalf] = {
    "qwen3_vl_moe": TextHalf(
        "qwen3_vl_moe_text",
        INSIDE,
        VISION,
        tied=("outer",),
    ),
    "qwen3_omni_moe_thinker": TextHalf(
        "qwen3_omni_moe_text",
        BESIDE_TOWERS,
        (r"(model\.)?(visual|audio_tower)\..*",),
        tied=("outer",),
        no_effect=(*OMNI_CONFIG, ".*initializer_range"),
    ),
    "qwen3_omni_moe": TextHalf(
        "qwen3_omni_moe_thinker",
        (("thinker.model.", "thinker."),),
        (r"(talker|code2wav)\..*", r"thinker\.(visual|audio_tower)\..*"),
        modules=("thinker.model.language_model.", "thinker."),
        section="thinker_config",
        no_effect=(r"(talker|code2wav)_config", *OMNI_CONFIG),
    ),
}
