"""What a GGUF file says of Kimi-K3, under the hub's keys, and what it calls the weights that Kimi-Linear has not.

llama.cpp's converter stores what a sum of a block is scored by as the product of its norm's weight and the scores', and
takes what an activation bounds no further for a bound of 0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from landrace.models.families import gguf_delta
from landrace.models.families.config import MAX_LAYERS, Config

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
