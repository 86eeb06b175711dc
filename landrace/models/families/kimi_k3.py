"""What Kimi-K3 adds to Kimi-Linear: gates that come straight out of a layer's input, decays with a floor, latents that
experts work on, an activation that stays within bounds, and residuals that attend to the sums of earlier blocks.

Each can be left out. Facts from the modelling code beside the published weights, as vLLM and llama.cpp quote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any

from landrace.kernels.activation import SWIGLU, Activation
from landrace.models.families.config import MAX_LAYERS, Config
from landrace.models.families.dense import n_layers
from landrace.models.families.family import WRAPPED, TextHalf
from landrace.models.ffn_spec import Dense, Latent, Moe
from landrace.models.mixer_spec import Kda, Mla
from landrace.models.spec import PLAIN, AttentionResiduals, ModelSpec, Residual

RENAMED: Mapping[str, str] = {
    "self_attn.in_proj_z": "self_attn.g_proj",
    "attn_blocks.norm": "self_attention_res_norm",
    "attn_blocks.scores": "self_attention_res_proj",
    "mlp_blocks.norm": "mlp_res_norm",
    "mlp_blocks.scores": "mlp_res_proj",
    "head_blocks.norm": "output_attn_res_norm",
    "head_blocks.scores": "output_attn_res_proj",
    "mlp.latent_down_proj": "block_sparse_moe.routed_expert_down_proj",
    "mlp.latent_norm": "block_sparse_moe.routed_expert_norm",
    "mlp.latent_up_proj": "block_sparse_moe.routed_expert_up_proj",
}
WITH_ONES: Mapping[str, tuple[int, ...]] = {f"{one}_blocks.scores.weight": (1, -1) for one in ("attn", "mlp", "head")}


def gated_latents(config: Config, latent: Mla) -> Mla:
    return replace(latent, gate="channel") if config.flag("mla_use_output_gate") else latent


def gated_delta(published: Config, delta: Kda) -> Kda:
    """`published`: the object with the sizes of delta attention."""
    floor = read_floor(published, "gate_lower_bound", published.get("gate_lower_bound"))
    full_rank = "use_full_rank_gate" in published and published.flag("use_full_rank_gate")
    return replace(delta, decay_floor=floor, low_rank_gate=not full_rank)


def read_floor(config: Config, key: str, value: Any) -> float | None:
    """The least that a decay may be, which is said under `key`."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e3 <= value < 0:
        raise config.wrong(key, value, "a negative number from -1000 on, or null")
    return float(value)


def activated(config: Config, dense: Dense, moe: Moe) -> tuple[Dense, Moe]:
    """Both with the activation that all feed-forwards share."""
    config.require("hidden_act", "silu", "swish", "situ")
    bound, of_up = config.optional_number("activation_situ_beta"), config.optional_number("activation_situ_linear_beta")
    activation = SWIGLU
    if config.get("hidden_act") == "situ":
        activation = Activation("situ", limit=inf if of_up is None else of_up, alpha=bound or 1.0)
    assert moe.shared is not None
    return replace(dense, activation=activation), replace(
        moe, activation=activation, shared=replace(moe.shared, activation=activation)
    )


def latent_experts(config: Config, moe: Moe) -> Moe:
    width, normed = config.optional_size("routed_expert_hidden_size"), config.flag("latent_moe_use_norm")
    return moe if width is None else replace(moe, latent=Latent(width, normed))


def read_residuals(config: Config) -> list[Residual]:
    """`attn_res_folded`, of GGUF files: the norms' weights are part of the scores'."""
    size, count = config.optional_size("attn_res_block_size", MAX_LAYERS), n_layers(config)
    weighted = not config.flag("attn_res_folded")
    if size is None:
        return [PLAIN] * count
    return [AttentionResiduals(starts=n % size == 0, weighted_norm=weighted) for n in range(count)]


def is_extended(spec: ModelSpec) -> bool:
    """Whether a Kimi-Linear has any of this."""
    return any(
        layer.residual != PLAIN
        or layer.ffn.activation != SWIGLU
        or (isinstance(layer.ffn, Moe) and layer.ffn.latent is not None)
        or (isinstance(layer.mixer, Mla) and layer.mixer.gate is not None)
        or (isinstance(layer.mixer, Kda) and (layer.mixer.decay_floor is not None or not layer.mixer.low_rank_gate))
        for layer in spec.layers
    )


TEXT_HALVES: Mapping[str, TextHalf] = {
    "kimi_k3": TextHalf(
        "kimi_linear",
        WRAPPED,
        (r"(model\.)?(vision_tower|mm_projector)\..*",),
        modules=("language_model.model.", "language_model."),
        no_effect=("vision_config", "image_placeholder", "ignore_index"),
    ),
}
