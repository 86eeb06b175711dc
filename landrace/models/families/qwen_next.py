"""Qwen3-Next, and the text of Qwen3.5 and of what is built on it: layers of the gated delta net, and every so many one
of gated attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from landrace.errors import CheckpointError
from landrace.kernels.head_form import QkNorm
from landrace.kernels.router import Router
from landrace.models.families.config import MAX_LAYERS, Config
from landrace.models.families.dense import layer_kinds, n_layers, read_attention, read_decoder, read_mlp
from landrace.models.families.family import Family, TextHalf
from landrace.models.families.moe import TRAINING, mixed, read_experts, sparse_by_step
from landrace.models.families.names import JOINT, ONE_BY_ONE, Naming
from landrace.models.families.qwen import VISION
from landrace.models.families.qwen_moe import RENAMED
from landrace.models.ffn_spec import Dense, Moe
from landrace.models.mixer_spec import Gdn, Mixer
from landrace.models.spec import ModelSpec

QWEN3_NEXT = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "partial_rotary_factor": 0.25,
    "tie_word_embeddings": False,
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "decoder_sparse_step": 1,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "norm_topk_prob": True,
}
QWEN3_5 = {
    **QWEN3_NEXT,
    "vocab_size": 248320,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_key_value_heads": 4,
}
QWEN3_5_MOE = {
    **QWEN3_5,
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "num_experts": 256,
    "num_experts_per_tok": 8,
}

GATED_QUERIES = {"self_attn.q_proj": ("self_attn.q_proj", "self_attn.g_proj")}
OF_DELTA = {
    **{f"self_attn.in_proj_{one}": f"linear_attn.in_proj_{one}" for one in "zba"},
    "self_attn.a_log.weight": "linear_attn.A_log",
    "self_attn.dt_bias.weight": "linear_attn.dt_bias",
    "self_attn.gated_norm": "linear_attn.norm",
    "self_attn.out_proj": "linear_attn.out_proj",
}
CONVOLUTIONS = ("self_attn.q_conv", "self_attn.k_conv", "self_attn.v_conv")
SPLIT = Naming(
    renamed={**RENAMED, **ONE_BY_ONE, **OF_DELTA},
    fused={
        **GATED_QUERIES,
        "linear_attn.in_proj_qkv": tuple(f"self_attn.in_proj_{one}" for one in "qkv"),
        "linear_attn.conv1d": CONVOLUTIONS,
    },
    by_head=("self_attn.q_proj.weight",),
    norms_around_zero=True,
    norms_around_one=("self_attn.gated_norm.weight",),
)
"""Qwen3.5's names."""
GROUPED = replace(
    SPLIT,
    fused={
        **GATED_QUERIES,
        "linear_attn.in_proj_qkvz": tuple(f"self_attn.in_proj_{one}" for one in "qkvz"),
        "linear_attn.in_proj_ba": tuple(f"self_attn.in_proj_{one}" for one in "ba"),
        "linear_attn.conv1d": CONVOLUTIONS,
    },
    by_head=("self_attn.q_proj.weight", "linear_attn.in_proj_qkvz.weight", "linear_attn.in_proj_ba.weight"),
)
"""Qwen3-Next's names."""


def with_joint_experts(naming: Naming) -> Naming:
    renamed = {ours: theirs for ours, theirs in naming.renamed.items() if ours not in ONE_BY_ONE}
    return replace(naming, renamed=renamed, fused={**naming.fused, **JOINT})


def read_mixers(config: Config) -> list[Mixer]:
    """The gated delta net, and in every `full_attention_interval`-th layer, or where `layer_types` says so, attention
    with gated results."""
    count, interval = n_layers(config), config.size("full_attention_interval", MAX_LAYERS)
    kinds = layer_kinds(config, "layer_types", count, {"full_attention": True, "linear_attention": False})
    attends = kinds or [(n + 1) % interval == 0 for n in range(count)]
    attention = read_attention(config, qk_norm=QkNorm("before_rope"), partial_rotary=True)
    delta = read_delta(config)
    return [replace(attention, gate="channel") if one else delta for one in attends]


def read_delta(config: Config) -> Gdn:
    heads, value_heads = config.size("linear_num_key_heads"), config.size("linear_num_value_heads")
    if value_heads % heads:
        raise CheckpointError(f"{value_heads} heads of values cannot share {heads} heads of keys.")
    return Gdn(
        n_heads=heads,
        n_value_heads=value_heads,
        key_dim=config.size("linear_key_head_dim"),
        value_dim=config.size("linear_value_head_dim"),
        conv_width=config.size("linear_conv_kernel_dim", limit=8),
    )


def read_gated_mixture(config: Config, renorm: bool) -> Moe:
    experts, chosen = read_experts(config, "num_experts", "num_experts_per_tok")
    return Moe(
        experts,
        config.size("moe_intermediate_size"),
        Router(chosen, renorm=renorm),
        shared=Dense(config.size("shared_expert_intermediate_size")),
        shared_gate=True,
    )


def read_qwen3_next(config: Config) -> ModelSpec:
    moe = read_gated_mixture(config, config.flag("norm_topk_prob"))
    return read_decoder(config, read_mixers(config), mixed(sparse_by_step(config), read_mlp(config), moe))


def read_qwen3_5(config: Config) -> ModelSpec:
    return read_decoder(config, read_mixers(config), read_mlp(config))


def read_qwen3_5_moe(config: Config) -> ModelSpec:
    return read_decoder(config, read_mixers(config), read_gated_mixture(config, renorm=True))


MTP = (r"mtp\..*",)
"""The layer that guesses the token after the next one."""
NO_EFFECT = (r"mtp_.*|mamba_ssm_dtype|mlp_only_layers",)
FIXED = {"attention_bias": False, "attn_output_gate": True, "output_gate_type": "swish"}

FAMILIES: Mapping[str, Family] = {
    "qwen3_next": Family(
        read_qwen3_next,
        QWEN3_NEXT,
        (GROUPED, with_joint_experts(GROUPED)),
        {"num_local_experts": "num_experts"},
        drafts=MTP,
        no_effect=(*TRAINING, r"mtp_.*|mamba_ssm_dtype"),
        fixed={**FIXED, "use_sliding_window": False},
    ),
    "qwen3_5_text": Family(read_qwen3_5, QWEN3_5, (SPLIT,), drafts=MTP, no_effect=NO_EFFECT, fixed=FIXED),
    "qwen3_5_moe_text": Family(
        read_qwen3_5_moe,
        QWEN3_5_MOE,
        (SPLIT, with_joint_experts(SPLIT)),
        {"num_local_experts": "num_experts"},
        drafts=MTP,
        no_effect=(*TRAINING, *NO_EFFECT, "intermediate_size"),
        fixed={**FIXED, "norm_topk_prob": True},
    ),
}

BESIDE_TOWERS = (("model.language_model.", ""), ("model.", ""))
QWEN_CONFIG = ("vision_config", "language_model_only")
MINICPM_TOWERS = (r"model\.(vision_tower|merger)\..*",)
MINICPM_CONFIG = (
    "vision_config",
    r"insert_layer_id|image_size|patch_size|drop_vision_last_layer|downsample_mode|merger_times|merge_kernel_size",
)
TEXT_HALVES: Mapping[str, TextHalf] = {
    "qwen3_5": TextHalf("qwen3_5_text", BESIDE_TOWERS, VISION, no_effect=QWEN_CONFIG),
    "qwen3_5_moe": TextHalf("qwen3_5_moe_text", BESIDE_TOWERS, VISION, no_effect=QWEN_CONFIG),
    "minicpmv4_6": TextHalf("qwen3_5_text", BESIDE_TOWERS, MINICPM_TOWERS, no_effect=MINICPM_CONFIG),
    "minicpmv4_7": TextHalf("qwen3_5_text", BESIDE_TOWERS, MINICPM_TOWERS, no_effect=MINICPM_CONFIG),
    "minicpm_ocr": TextHalf(
        "qwen3_5_text", BESIDE_TOWERS, MINICPM_TOWERS, tied=("outer",), ties_by_default=True, no_effect=MINICPM_CONFIG
    ),
}
