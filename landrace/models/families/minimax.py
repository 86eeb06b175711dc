"""MiniMax-M2: q and k are normalised over all heads at once, and a part of each head rotates."""

from __future__ import annotations

from collections.abc import Mapping

from landrace.kernels.head_form import QkNorm
from landrace.kernels.router import Router
from landrace.models.families.config import Config
from landrace.models.families.dense import n_layers, read_attention, read_decoder
from landrace.models.families.family import Family
from landrace.models.families.moe import TRAINING, read_experts
from landrace.models.families.names import with_experts
from landrace.models.ffn_spec import Moe
from landrace.models.spec import ModelSpec

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


def read_minimax_m2(config: Config) -> ModelSpec:
    kinds = config.per_layer("attn_type_list", n_layers(config)) or []
    if any(kind != 1 for kind in kinds):
        raise config.wrong("attn_type_list", kinds, "1 for every layer")
    rotary_dim = config.optional_size("rotary_dim")
    if rotary_dim is not None:
        config = config.replaced({"partial_rotary_factor": rotary_dim / config.size("head_dim")})
    experts, chosen = read_experts(config, "num_local_experts", "num_experts_per_tok")
    router = Router(chosen, "sigmoid", choice_bias=True, renorm=True)
    attention = read_attention(config, qk_norm=QkNorm("before_rope", over="all_heads"), partial_rotary=True)
    return read_decoder(config, attention, Moe(experts, config.size("intermediate_size"), router))


FAMILIES: Mapping[str, Family] = {
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
