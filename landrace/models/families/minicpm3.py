"""MiniCPM3: latent attention in dense layers, with MiniCPM's scales."""

from __future__ import annotations

from collections.abc import Mapping

from landrace.models.families.config import Config
from landrace.models.families.dense import n_layers, read_decoder, read_mlp
from landrace.models.families.family import Family
from landrace.models.families.latent import NAMES, read_latent_attention
from landrace.models.spec import ModelSpec, Plain

MINICPM3 = {
    "vocab_size": 73448, "hidden_size": 2560, "intermediate_size": 6400, "num_hidden_layers": 62,
    "num_attention_heads": 40, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
    "tie_word_embeddings": True, "attention_bias": False, "q_lora_rank": 768, "kv_lora_rank": 256,
    "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256,
}  # fmt: skip


def read_minicpm3(config: Config) -> ModelSpec:
    layers, d_model = n_layers(config), config.size("hidden_size")
    depth, base = config.optional_number("scale_depth"), config.optional_number("dim_model_base")
    return read_decoder(
        config,
        read_latent_attention(config),
        read_mlp(config),
        embed_scale=config.number("scale_emb"),
        residual=Plain(1.0 if depth is None else depth / layers**0.5),
        logit_divisor=1.0 if base is None else d_model / base,
    )


FAMILIES: Mapping[str, Family] = {
    "minicpm3": Family(
        read_minicpm3,
        MINICPM3,
        (NAMES,),
        no_effect=("num_key_value_heads|(qk_)?head_dim",),
    ),
}
