"""Llama and those that differ from it in a line: SmolLM3, Seed-OSS, Granite, ERNIE 4.5.

Yi, SmolLM2, Llama 1 to 3 and many others are of `model_type` llama.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from landrace.models.families.config import Config
from landrace.models.families.dense import n_layers, read_attention, read_decoder, read_mlp, with_windows
from landrace.models.families.family import Family
from landrace.models.families.names import Naming
from landrace.models.spec import ModelSpec, Plain

SHAPE = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
    "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
}  # fmt: skip
SMOLLM3 = {
    **SHAPE, "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16,
    "num_key_value_heads": 4, "max_position_embeddings": 32768, "rope_theta": 2_000_000.0, "tie_word_embeddings": True,
    "use_sliding_window": False, "no_rope_layer_interval": 4,
}  # fmt: skip
SEED_OSS = {
    **SHAPE, "vocab_size": 155136, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 80,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 524288, "attention_bias": True,
    "attention_out_bias": False,
}  # fmt: skip
GRANITE = {
    **SHAPE, "embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
}  # fmt: skip
ERNIE = {
    **SHAPE, "vocab_size": 103424, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 18,
    "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "tie_word_embeddings": True, "use_bias": False,
}  # fmt: skip


def read_llama(config: Config) -> ModelSpec:
    attention = read_attention(config, bias=config.flag("attention_bias"))
    return read_decoder(config, attention, read_mlp(config, config.flag("mlp_bias")))


def read_smollm3(config: Config) -> ModelSpec:
    """A layer whose entry in `no_rope_layers` is 0 does not rotate; without the list it is every 4th."""
    count = n_layers(config)
    attention = read_attention(config, bias=config.flag("attention_bias"))
    interval = config.size("no_rope_layer_interval")
    rotates = config.per_layer("no_rope_layers", count)
    if rotates is None:
        rotates = [int((n + 1) % interval != 0) for n in range(count)]
    if any(one not in (0, 1) for one in rotates):
        raise config.wrong("no_rope_layers", rotates, "a list of 0 and 1")
    layers = with_windows(config, attention, [not one for one in rotates])
    each = [layer if turns else replace(layer, rope=None) for layer, turns in zip(layers, rotates, strict=True)]
    return read_decoder(config, each, read_mlp(config, config.flag("mlp_bias")))


def read_seed_oss(config: Config) -> ModelSpec:
    attention = read_attention(config, qkv_bias=config.flag("attention_bias"), o_bias=config.flag("attention_out_bias"))
    return read_decoder(config, attention, read_mlp(config, config.flag("mlp_bias")))


def read_granite(config: Config) -> ModelSpec:
    bias, scale = config.flag("attention_bias"), config.number("attention_multiplier")
    return read_decoder(
        config,
        read_attention(config, bias=bias, scale=scale),
        read_mlp(config, config.flag("mlp_bias")),
        embed_scale=config.number("embedding_multiplier"),
        residual=Plain(config.number("residual_multiplier")),
        logit_divisor=config.number("logits_scaling"),
    )


def read_ernie(config: Config) -> ModelSpec:
    bias = config.flag("use_bias")
    return read_decoder(config, read_attention(config, bias=bias), read_mlp(config, bias))


FAMILIES: Mapping[str, Family] = {
    "llama": Family(read_llama, SHAPE),
    "smollm3": Family(read_smollm3, SMOLLM3, no_effect=("max_window_layers",)),
    "seed_oss": Family(read_seed_oss, SEED_OSS),
    "granite": Family(read_granite, GRANITE),
    "ernie4_5": Family(read_ernie, ERNIE, (Naming(interleaved=True),), fixed={"compression_ratio": 1.0}),
}
