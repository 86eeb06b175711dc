"""What a GGUF file says of Kimi-K3, under the hub's keys, and what it calls the weights that Kimi-Linear has not.

llama.cpp's converter stores what a sum of a block is scored by as the product of its norm's weight and the scores', and
takes what an activation bounds no further for a bound of 0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from math import isinf
from typing import Any

from landrace.models.families import gguf_delta
from landrace.models.families.config import MAX_LAYERS, Config
from landrace.models.ffn_spec import Moe
from landrace.models.mixer_spec import Kda
from landrace.models.spec import AttentionResiduals, ModelSpec
from landrace.models.stored import StoredTensor

RENAMED: Mapping[str, str] = {
    **gguf_delta.KIMI,
    "self_attn.in_proj_z": "ssm_g",
    "self_attn.g_proj": "attn_gate",
    "mlp.latent_down_proj": "ffn_routed_down",
    "mlp.latent_norm": "ffn_routed_norm",
    "mlp.latent_up_proj": "ffn_routed_up",
    "attn_blocks.scores": "attn_res_score",
    "mlp_blocks.scores": "ffn_res_score",
    "head_blocks.scores": "output_res_score",
}

NORM, SCORES = "_blocks.norm.weight", "_blocks.scores.weight"


def k3_facts(keys: Config, names: Collection[str], config: dict[str, Any]) -> dict[str, Any]:
    of_kimi, of_up = gguf_delta.kimi_facts(keys, names, config), "activation.situ_linear_beta"
    count, kinds = config["num_hidden_layers"], of_kimi["layer_types"]
    bounded = not isinstance(keys.get(of_up), (int, float)) or keys.get(of_up) > 0
    return {
        "linear_attn_config": {
            "num_heads": of_kimi["linear_num_heads"],
            "head_dim": of_kimi["linear_head_dim"],
            "short_conv_kernel_size": of_kimi["linear_conv_kernel_dim"],
            "gate_lower_bound": keys.get("kda.gate_lower_bound"),
            "use_full_rank_gate": True,
            "full_attn_layers": [n + 1 for n in range(count) if kinds[n] == "full_attention"],
            "kda_layers": [n + 1 for n in range(count) if kinds[n] == "linear_attention"],
        },
        "mla_use_output_gate": any(name.endswith(".attn_gate.weight") for name in names),
        "routed_expert_hidden_size": keys.optional_size("expert_latent_length"),
        "latent_moe_use_norm": any(name.endswith(".ffn_routed_norm.weight") for name in names),
        "attn_res_block_size": keys.optional_size("attn_res.block_size", MAX_LAYERS),
        "attn_res_folded": True,
        "hidden_act": "situ",
        "activation_situ_beta": keys.number("activation.situ_beta"),
        "activation_situ_linear_beta": keys.number(of_up) if bounded else None,
    }


def written_k3(spec: ModelSpec, stated: dict[str, Any]) -> dict[str, Any]:
    """The same, the other way round."""
    mixers, ffns = [layer.mixer for layer in spec.layers], [layer.ffn for layer in spec.layers]
    latent = next((ffn.latent for ffn in ffns if isinstance(ffn, Moe)), None)
    activation = ffns[0].activation
    return {
        **gguf_delta.written_kimi(spec, stated),
        "kda.gate_lower_bound": next((mixer.decay_floor for mixer in mixers if isinstance(mixer, Kda)), None),
        "expert_latent_length": None if latent is None else latent.width,
        "attn_res.block_size": stated.get("attn_res_block_size"),
        "activation.situ_beta": activation.alpha,
        "activation.situ_linear_beta": 0.0 if isinf(activation.limit) else activation.limit,
    }


def as_in_files(spec: ModelSpec) -> ModelSpec:
    """The model with the norms' weights in the scores'."""
    residuals = [layer.residual for layer in spec.layers]
    folded = [replace(one, weighted_norm=False) if isinstance(one, AttentionResiduals) else one for one in residuals]
    layers = [replace(layer, residual=one) for layer, one in zip(spec.layers, folded, strict=True)]
    return replace(spec, layers=tuple(layers))


def with_folded_norms(params: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The parameters with every weight of scores times that of the norm before them, in float32."""
    found = dict(params)
    for name, scores in params.items():
        if name.endswith(SCORES) and (norm := params.get(name.removesuffix(SCORES) + NORM)) is not None:
            found[name] = _product(scores, norm)
    return found


def _product(one: StoredTensor, other: StoredTensor) -> StoredTensor:
    return StoredTensor("F32", one.shape, lambda: StoredTensor.of(one.values() * other.values()).read())
