"""OpenAI gpt-oss: sinks in the softmax, every other layer with a sliding window, biases everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from landrace.kernels.activation import Activation
from landrace.kernels.router import Router
from landrace.models.families.config import Config
from landrace.models.families.dense import n_layers, read_attention, read_decoder, with_windows
from landrace.models.families.family import Family
from landrace.models.families.moe import TRAINING, read_experts
from landrace.models.families.names import JOINT, Naming
from landrace.models.ffn_spec import Moe
from landrace.models.spec import ModelSpec

GPT_OSS = {
    "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5, "rope_theta": 150_000.0,
    "rope_parameters": {
        "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
        "original_max_position_embeddings": 4096,
    },
    "tie_word_embeddings": False, "attention_bias": True, "sliding_window": 128, "num_local_experts": 128,
    "num_experts_per_tok": 4, "swiglu_alpha": 1.702, "swiglu_limit": 7.0,
}  # fmt: skip
NAMING = Naming(
    renamed={"self_attn.sinks.weight": "self_attn.sinks"},
    # Gates and ups take turns, and a matrix is stored the other way round.
    fused={
        **JOINT,
        "mlp.experts.gate_up_proj_bias": ("mlp.experts.gate_proj.bias", "mlp.experts.up_proj.bias"),
        "mlp.experts.down_proj_bias": ("mlp.experts.down_proj.bias",),
    },
    alternating=("mlp.experts.gate_up_proj", "mlp.experts.gate_up_proj_bias"),
    transposed=tuple(JOINT),
)
PACKED = replace(
    NAMING,
    fused={
        "mlp.experts.gate_up_proj_blocks": JOINT["mlp.experts.gate_up_proj"],
        "mlp.experts.down_proj_blocks": JOINT["mlp.experts.down_proj"],
        **{theirs: ours for theirs, ours in NAMING.fused.items() if theirs not in JOINT},
    },
    alternating=("mlp.experts.gate_up_proj_blocks", "mlp.experts.gate_up_proj_bias"),
    transposed=(),
)
"""As it is published, in mxfp4: rows are outputs."""


def read_gpt_oss(config: Config) -> ModelSpec:
    attention = replace(read_attention(config, bias=config.flag("attention_bias")), sinks=True)
    layers = with_windows(config, attention, [n % 2 == 0 for n in range(n_layers(config))], optional=False)
    experts, chosen = read_experts(config, "num_local_experts", "num_experts_per_tok")
    activation = Activation("oai", config.number("swiglu_limit"), config.number("swiglu_alpha"))
    router = Router(chosen, "softmax_of_chosen", bias=True)
    moe = Moe(experts, config.size("intermediate_size"), router, bias=True, activation=activation)
    return read_decoder(config, layers, moe)


FAMILIES: Mapping[str, Family] = {
    "gpt_oss": Family(
        read_gpt_oss,
        GPT_OSS,
        (NAMING, PACKED, NAMING),  # transformers' names are the first and the last
        {
            "num_experts": "num_local_experts",
            "experts_per_token": "num_experts_per_tok",
            "initial_context_length": "original_max_position_embeddings",
        },
        no_effect=TRAINING,
    )
}
