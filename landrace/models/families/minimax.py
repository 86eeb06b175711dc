"""MiniMax-Text-01 and M1: layers of lightning attention, every so many one of attention, experts, and residuals of what
is normalised. MiniMax-M2: q and k are normalised over all heads at once. In all of them a part of each head rotates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from landrace.kernels.head_form import QkNorm
from landrace.kernels.router import Router
from landrace.models.families.config import Config
from landrace.models.families.dense import layer_kinds, n_layers, read_attention, read_decoder
from landrace.models.families.family import Family
from landrace.models.families.moe import TRAINING, read_experts
from landrace.models.families.names import with_experts
from landrace.models.ffn_spec import Moe
from landrace.models.mixer_spec import Lightning
from landrace.models.spec import AfterNorm, ModelSpec

MINIMAX = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 1_000_000.0, "tie_word_embeddings": False, "num_experts_per_tok": 2, "num_local_experts": 8,
    "full_attn_alpha_factor": 1.0, "full_attn_beta_factor": 1.0, "linear_attn_alpha_factor": 1.0,
    "linear_attn_beta_factor": 1.0, "mlp_alpha_factor": 1.0, "mlp_beta_factor": 1.0,
}  # fmt: skip
MINIMAX_M2 = {
    "vocab_size": 200064, "hidden_size": 3072, "intermediate_size": 1536, "num_hidden_layers": 62,
    "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 196608,
    "rms_norm_eps": 1e-6, "rope_theta": 5_000_000.0, "tie_word_embeddings": False, "num_experts_per_tok": 8,
    "num_local_experts": 256,
}  # fmt: skip
NAMINGS = with_experts(
    {
        "mlp.router": "block_sparse_moe.gate",
        "mlp.router.choice_bias": "block_sparse_moe.e_score_correction_bias",
        "mlp.experts.gate_proj": "block_sparse_moe.experts.{}.w1",
        "mlp.experts.up_proj": "block_sparse_moe.experts.{}.w3",
        "mlp.experts.down_proj": "block_sparse_moe.experts.{}.w2",
    },
    {"mlp.router": "mlp.gate", "mlp.router.choice_bias": "mlp.e_score_correction_bias"},
)
LIGHTNING_NAMINGS = tuple(
    replace(
        naming,
        renamed={
            **naming.renamed,
            "self_attn.in_proj_z": "self_attn.output_gate",
            "self_attn.gated_norm": "self_attn.norm",
        },
        fused={**naming.fused, "self_attn.qkv_proj": tuple(f"self_attn.in_proj_{one}" for one in "qkv")},
        by_head=("self_attn.qkv_proj.weight",),
    )
    for naming in NAMINGS
)


def read_minimax(config: Config) -> ModelSpec:
    """Published files list the layers that attend as 1 and the others as 0, or name them; rotary_dim channels of each
    head turn."""
    count = n_layers(config)
    attends = layer_kinds(config, "layer_types", count, {"full_attention": True, "linear_attention": False})
    listed = config.per_layer("attn_type_list", count)
    if listed is not None:
        if any(kind not in (0, 1) for kind in listed):
            raise config.wrong("attn_type_list", listed, "0 or 1 for every layer")
        attends = [kind == 1 for kind in listed]
    if attends is None:
        attends = [n % 2 == 0 for n in range(count)]
    attention = read_attention(_with_rotary_dim(config), partial_rotary=True)
    heads, width = attention.n_heads, attention.head_dim
    mixers = [
        attention if attends[n] else Lightning(heads, width, 1 - n / (count - 1 + 1e-5) + 1e-5) for n in range(count)
    ]
    ffn = (config.number("mlp_alpha_factor"), config.number("mlp_beta_factor"))
    full, linear = (
        AfterNorm(config.number(f"{kind}_attn_alpha_factor"), config.number(f"{kind}_attn_beta_factor"), *ffn)
        for kind in ("full", "linear")
    )
    experts, chosen = read_experts(config, "num_local_experts", "num_experts_per_tok")
    moe = Moe(experts, config.size("intermediate_size"), Router(chosen, renorm=True))
    return read_decoder(config, mixers, moe, residual=[full if one else linear for one in attends])


def read_minimax_m2(config: Config) -> ModelSpec:
    kinds = config.per_layer("attn_type_list", n_layers(config)) or []
    if any(kind != 1 for kind in kinds):
        raise config.wrong("attn_type_list", kinds, "1 for every layer")
    config = _with_rotary_dim(config)
    experts, chosen = read_experts(config, "num_local_experts", "num_experts_per_tok")
    router = Router(chosen, "sigmoid", choice_bias=True, renorm=True)
    attention = read_attention(config, qk_norm=QkNorm("before_rope", over="all_heads"), partial_rotary=True)
    return read_decoder(config, attention, Moe(experts, config.size("intermediate_size"), router))


def _with_rotary_dim(config: Config) -> Config:
    rotary_dim = config.optional_size("rotary_dim")
    if rotary_dim is None:
        return config
    return config.replaced({"partial_rotary_factor": rotary_dim / config.size("head_dim")})


OF_TEXT_01 = Family(
    read_minimax,
    MINIMAX,
    LIGHTNING_NAMINGS,
    {
        "num_experts": "num_local_experts",
        **{
            f"layernorm_{theirs}_{which}": f"{ours}_{which}_factor"
            for theirs, ours in (("full_attention", "full_attn"), ("linear_attention", "linear_attn"), ("mlp", "mlp"))
            for which in ("alpha", "beta")
        },
    },
    no_effect=(
        *TRAINING,
        "block_size",  # In how many rows at a time the same is computed.
        "shared_moe_mode",  # Of an expert that there is not.
    ),
    fixed={"postnorm": True, "shared_intermediate_size": 0, "sliding_window": None},
)
FAMILIES: Mapping[str, Family] = {
    **dict.fromkeys(("minimax", "minimax_text_01", "minimax_m1"), OF_TEXT_01),
    "minimax_m2": Family(
        read_minimax_m2,
        MINIMAX_M2,
        NAMINGS,
        {"num_experts": "num_local_experts"},
        no_effect=(
            *TRAINING,
            r"mlp_intermediate_size|shared_moe_mode",  # Of layers and experts that it has none of.
            r"use_mtp|num_mtp_modules|mtp_transformer_layers",  # Layers that guess further tokens, not published.
        ),
        fixed={
            "qk_norm_type": "per_layer",
            "use_qk_norm": True,
            "use_routing_bias": True,
            "scoring_func": "sigmoid",
            "shared_intermediate_size": 0,
            "layernorm_full_attention_beta": 1.0,
            "layernorm_linear_attention_beta": 1.0,
            "layernorm_mlp_beta": 1.0,
        },
    ),
}
