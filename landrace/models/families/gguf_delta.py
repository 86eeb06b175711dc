"""What a GGUF file says of recurrent layers, under the hub's keys, and what it calls their weights.

llama.cpp's converter stores decays as -e^A_log. Where Qwen3.5's value heads share heads of keys, it also puts the value
heads in another order, the first of each group before the second ones; Qwen3-Next's stay in theirs. Older files of
Qwen3-Next have what goes into a delta net in one tensor, as the hub does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from landrace.errors import CheckpointError
from landrace.models.families.config import MAX_LAYERS, Config
from landrace.models.families.gguf_architecture import without_drafts
from landrace.models.families.names import Naming
from landrace.models.families.weights import Form
from landrace.models.mixer_spec import Gdn, Kda, Lightning
from landrace.models.spec import ModelSpec

RECURRENT = "attention.recurrent_layers"
RENAMED: Mapping[str, str] = {
    "post_attention_layernorm": "post_attention_norm",
    "self_attn.in_proj_z": "attn_gate",
    "self_attn.in_proj_b": "ssm_beta",
    "self_attn.in_proj_a": "ssm_alpha",
    "self_attn.a_log.weight": "ssm_a",
    "self_attn.dt_bias.weight": "ssm_dt.bias",
    "self_attn.gated_norm": "ssm_norm",
    "self_attn.out_proj": "ssm_out",
}
FUSED: Mapping[str, tuple[str, ...]] = {
    "attn_q": ("self_attn.q_proj", "self_attn.g_proj"),
    "attn_qkv": ("self_attn.in_proj_q", "self_attn.in_proj_k", "self_attn.in_proj_v"),
    "ssm_ba": ("self_attn.in_proj_b", "self_attn.in_proj_a"),
    "ssm_conv1d": ("self_attn.q_conv", "self_attn.k_conv", "self_attn.v_conv"),
}
OF_QWEN3_5 = {theirs: ours for theirs, ours in FUSED.items() if theirs != "ssm_ba"}
OLD_FUSED: Mapping[str, tuple[str, ...]] = {
    "ssm_in": ("self_attn.in_proj_q", "self_attn.in_proj_k", "self_attn.in_proj_v", "self_attn.in_proj_z"),
}
KIMI: Mapping[str, str] = {
    **{f"self_attn.{one}_conv": f"ssm_conv1d_{one}" for one in "qkv"},
    **{f"self_attn.{one}_proj": f"ssm_{one}" for one in ("f_a", "f_b", "g_a", "g_b")},
    "self_attn.b_proj": "ssm_beta",
    "self_attn.a_log.weight": "ssm_a",
    "self_attn.dt_bias.weight": "ssm_dt.bias",
    "self_attn.gated_norm": "ssm_norm",
}
LIGHTNING: Mapping[str, str] = {
    "self_attn.in_proj_z": "attn_gate",
    "self_attn.gated_norm": "attn_norm_2",
    "self_attn.out_proj": "attn_output",
}
LIGHTNING_FUSED: Mapping[str, tuple[str, ...]] = {
    "attn_qkv": ("self_attn.in_proj_q", "self_attn.in_proj_k", "self_attn.in_proj_v"),
}
FORMS: Mapping[str, Form] = {"self_attn.a_log.weight": "log_of_minus"}


def delta_facts(keys: Config, names: Collection[str], config: dict[str, Any]) -> dict[str, Any]:
    value_heads, inner = keys.size("ssm.time_step_rank"), keys.size("ssm.inner_size")
    if inner % value_heads:
        raise CheckpointError(f"{inner} values of a row are not {value_heads} heads.")
    return {
        **without_drafts(keys, config),
        "linear_conv_kernel_dim": keys.size("ssm.conv_kernel"),
        "linear_key_head_dim": keys.size("ssm.state_size"),
        "linear_value_head_dim": inner // value_heads,
        "linear_num_key_heads": keys.size("ssm.group_count"),
        "linear_num_value_heads": value_heads,
        "full_attention_interval": keys.optional_size("full_attention_interval", MAX_LAYERS) or 4,
    }


def written_delta(mixer: Gdn) -> dict[str, Any]:
    """The widths of a delta net, the other way round."""
    return {
        "ssm.conv_kernel": mixer.conv_width,
        "ssm.state_size": mixer.key_dim,
        "ssm.group_count": mixer.n_heads,
        "ssm.time_step_rank": mixer.n_value_heads,
        "ssm.inner_size": mixer.n_value_heads * mixer.value_dim,
    }


def with_delta(naming: Naming, tensor_names: Collection[str]) -> Naming:
    """`naming` for the form in which a file with these tensors keeps what goes into a delta net."""
    if not any(name.endswith(".ssm_in.weight") for name in tensor_names):
        return naming
    fused = {theirs: ours for theirs, ours in naming.fused.items() if theirs != "attn_qkv"}
    return replace(naming, fused={**fused, **OLD_FUSED}, by_head=(*naming.by_head, "ssm_in.weight"))


def kimi_keys(own: Mapping[str, Any]) -> Mapping[str, Any]:
    """The file's keys with which layers keep a state under a name of its own: llama.cpp says that they have no heads of
    keys and values."""
    heads = own.get("attention.head_count_kv")
    if not isinstance(heads, list):
        raise CheckpointError("The GGUF metadata do not say attention.head_count_kv for every layer.")
    return {**own, RECURRENT: [count == 0 for count in heads]}


def kimi_facts(keys: Config, names: Collection[str], config: dict[str, Any]) -> dict[str, Any]:
    recurrent = keys.per_layer(RECURRENT, config["num_hidden_layers"]) or []
    return {"layer_types": layer_types(recurrent), **of_kimi_delta(keys, config)}


def of_kimi_delta(keys: Config, config: dict[str, Any]) -> dict[str, Any]:
    """As many heads as attention has."""
    return {
        "linear_num_heads": config["num_attention_heads"],
        "linear_head_dim": keys.size("kda.head_dim"),
        "linear_conv_kernel_dim": keys.size("ssm.conv_kernel"),
    }


def written_kimi(spec: ModelSpec, stated: dict[str, Any]) -> dict[str, Any]:
    """The same, the other way round."""
    mixers = [layer.mixer for layer in spec.layers]
    delta = next((mixer for mixer in mixers if isinstance(mixer, Kda)), None)
    if delta is None:
        return {}
    return {
        "attention.head_count_kv": [0 if isinstance(mixer, Kda) else 1 for mixer in mixers],
        "kda.head_dim": delta.head_dim,
        "ssm.conv_kernel": delta.conv_width,
    }


def lightning_facts(keys: Config, names: Collection[str], config: dict[str, Any]) -> dict[str, Any]:
    """Without a list, every so many-th layer attends. What is kept of the residual stream is one number for all."""
    count, interval = config["num_hidden_layers"], keys.optional_size("full_attention_interval", MAX_LAYERS) or 8
    recurrent = keys.per_layer(RECURRENT, count) or [(n + 1) % interval != 0 for n in range(count)]
    kept = keys.number("residual_scale")
    return {
        "layer_types": layer_types(recurrent),
        **{f"{kind}_alpha_factor": kept for kind in ("full_attn", "linear_attn", "mlp")},
    }


def written_lightning(spec: ModelSpec, stated: dict[str, Any]) -> dict[str, Any]:
    """The same, the other way round."""
    return {
        RECURRENT: [isinstance(layer.mixer, Lightning) for layer in spec.layers],
        "residual_scale": float(stated["full_attn_alpha_factor"]),
    }


def layer_types(recurrent: Sequence[Any]) -> list[str]:
    """What the hub calls layers that keep a state, and the others."""
    return ["linear_attention" if one else "full_attention" for one in recurrent]
