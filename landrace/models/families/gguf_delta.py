"""What a GGUF file says of gated delta nets, under the hub's keys, and what it calls their weights.

llama.cpp's converter stores decays as -e^A_log. Where Qwen3.5's value heads share heads of keys, it also puts the value
heads in another order, the first of each group before the second ones; Qwen3-Next's stay in theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from landrace.errors import CheckpointError
from landrace.models.families.config import MAX_LAYERS, Config
from landrace.models.families.weights import Form

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
FORMS: Mapping[str, Form] = {"self_attn.a_log.weight": "log_of_minus"}


def delta_facts(keys: Config, names: Collection[str], config: dict[str, Any]) -> dict[str, Any]:
    """The layers that guess further tokens are among those that the file counts."""
    value_heads, inner = keys.size("ssm.time_step_rank"), keys.size("ssm.inner_size")
    if inner % value_heads:
        raise CheckpointError(f"{inner} values of a row are not {value_heads} heads.")
    drafts = keys.count("nextn_predict_layers")
    heads = keys.size("ssm.group_count")
    return {
        "linear_conv_kernel_dim": keys.size("ssm.conv_kernel"),
        "linear_key_head_dim": keys.size("ssm.state_size"),
        "linear_value_head_dim": inner // value_heads,
        "linear_num_key_heads": heads,
        "linear_num_value_heads": value_heads,
        "linear_value_heads_in_rounds": config["model_type"] != "qwen3_next" and value_heads != heads,
        "full_attention_interval": keys.optional_size("full_attention_interval", MAX_LAYERS) or 4,
        "num_hidden_layers": config["num_hidden_layers"] - drafts,
        "num_nextn_predict_layers": drafts,
    }
