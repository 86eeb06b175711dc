"""Kimi-Linear: layers of Kimi delta attention, some of latent attention without rotation, and DeepSeek-V3's experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from landrace.errors import CheckpointError
from landrace.models.families import kimi_k3
from landrace.models.families.config import Config
from landrace.models.families.dense import layer_kinds, n_layers, read_decoder, read_mlp
from landrace.models.families.family import Family
from landrace.models.families.latent import NAMES, read_latent_attention
from landrace.models.families.moe import (
    TRAINING,
    mixed,
    read_deepseek_mixture,
    sparse_after,
    sparse_by_name,
)
from landrace.models.families.names import DEEPSEEK_EXPERTS, JOINT
from landrace.models.mixer_spec import Kda
from landrace.models.spec import ModelSpec

KIMI_LINEAR = {
    "vocab_size": 163840, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 27,
    "num_attention_heads": 32, "max_position_embeddings": 1048576, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "attention_bias": False, "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "linear_head_dim": 128, "linear_num_heads": 32, "linear_conv_kernel_dim": 4,
    "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 1024,
    "routed_scaling_factor": 2.446, "norm_topk_prob": True, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "hidden_act": "silu", "mla_use_output_gate": False, "latent_moe_use_norm": False, "attn_res_folded": False,
}  # fmt: skip
ALIASES = {
    "model_max_length": "max_position_embeddings",
    "num_experts": "n_routed_experts",
    "num_local_experts": "n_routed_experts",
    "num_experts_per_token": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
    "num_expert_group": "n_group",
    "moe_renormalize": "norm_topk_prob",
}

DECAYS = {"self_attn.a_log.weight": "self_attn.A_log", "self_attn.dt_bias.weight": "self_attn.dt_bias"}
HUB = replace(
    NAMES,
    renamed={
        **NAMES.renamed,
        **DECAYS,
        **{f"self_attn.{one}_conv": f"self_attn.{one}_conv1d" for one in "qkv"},
        "self_attn.gated_norm": "self_attn.o_norm",
        "mlp.router": "block_sparse_moe.gate",
        "mlp.router.choice_bias": "block_sparse_moe.gate.e_score_correction_bias",
        "mlp.experts.gate_proj": "block_sparse_moe.experts.{}.w1",
        "mlp.experts.up_proj": "block_sparse_moe.experts.{}.w3",
        "mlp.experts.down_proj": "block_sparse_moe.experts.{}.w2",
        "mlp.shared_expert": "block_sparse_moe.shared_experts",
    },
    with_ones={"self_attn.a_log.weight": (1, 1, -1, 1)},
)
K3 = replace(
    HUB,
    renamed={**HUB.renamed, **kimi_k3.RENAMED},
    with_ones=kimi_k3.WITH_ONES,
    padded=("self_attn.a_log.weight",),
)
DENSE = {f"mlp.{one}_proj": f"block_sparse_moe.{one}_proj" for one in ("gate", "up", "down")}
SAVED = replace(HUB, renamed={**HUB.renamed, **DENSE})
"""transformers writes the dense layer under the experts' name."""
FORGETTING = ("f_a_proj", "f_b_proj")
OWN = replace(
    HUB,
    renamed={
        **NAMES.renamed,
        **{ours: theirs.replace("self_attn.", "self_attn.forget_gate.") for ours, theirs in DECAYS.items()},
        **{f"self_attn.{one}": f"self_attn.forget_gate.{one}" for one in FORGETTING},
        "self_attn.gated_norm": "self_attn.o_norm",
        **DEEPSEEK_EXPERTS,
    },
    fused={**NAMES.fused, **JOINT, "self_attn.conv1d": tuple(f"self_attn.{one}_conv" for one in "qkv")},
)


def read_kimi_linear(config: Config) -> ModelSpec:
    count, published = n_layers(config), config.section("linear_attn_config")
    latent = kimi_k3.gated_latents(config, read_latent_attention(config, turns=False))
    delta = read_delta(config, published)
    attends = layer_kinds(config, "layer_types", count, {"full_attention": True, "linear_attention": False})
    if attends is None:
        attends = [n > 0 and n % 4 == 0 for n in range(count)] if published is None else _listed(published, count)
    if published is not None:
        delta = kimi_k3.gated_delta(published, delta)
        published.finish(("full_attn_layers|kda_layers",))
    moe = kimi_k3.latent_experts(config, read_deepseek_mixture(config))
    sparse = sparse_by_name(config) or sparse_after(config, "first_k_dense_replace")
    ffns = mixed(sparse, *kimi_k3.activated(config, read_mlp(config), moe))
    mixers = [latent if one else delta for one in attends]
    return read_decoder(config, mixers, ffns, residual=kimi_k3.read_residuals(config))


def read_delta(config: Config, published: Config | None) -> Kda:
    """`published`: the object that holds its sizes in the hub's files."""
    if published is None:
        width = config.size("linear_conv_kernel_dim", limit=8)
        return Kda(config.size("linear_num_heads"), config.size("linear_head_dim"), width)
    width = published.size("short_conv_kernel_size", limit=8)
    return Kda(published.size("num_heads"), published.size("head_dim"), width)


def _listed(published: Config, count: int) -> list[bool]:
    """Whether each layer attends; the lists count from 1."""
    full, delta = (published.get(key) for key in ("full_attn_layers", "kda_layers"))
    numbers = [*full, *delta] if isinstance(full, list) and isinstance(delta, list) else []
    if sorted(map(str, numbers)) != sorted(str(n) for n in range(1, count + 1)):
        raise CheckpointError(f"full_attn_layers and kda_layers do not name each of {count} layers once.")
    return [n + 1 in full for n in range(count)]


FAMILIES: Mapping[str, Family] = {
    "kimi_linear": Family(
        read_kimi_linear,
        KIMI_LINEAR,
        lambda spec: (K3,) if kimi_k3.is_extended(spec) else (HUB, SAVED, OWN),
        ALIASES,
        no_effect=(
            *TRAINING,
            "num_key_value_heads|(qk_)?head_dim",  # What follows from the widths of the parts.
            "rope_theta",  # Nothing turns.
            "linear_(num_heads|head_dim|conv_kernel_dim)",  # Where the hub's object says them too.
        ),
        fixed={
            "mla_use_nope": True,
            "rope_scaling": None,
            "moe_router_activation_func": "sigmoid",
            "moe_layer_freq": 1,
            "topk_method": "noaux_tc",
            "use_grouped_topk": True,
        },
    ),
}
