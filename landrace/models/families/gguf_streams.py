"""What a GGUF file says of several residual streams, and what it calls their weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from landrace.errors import UnsupportedError
from landrace.models.families.config import Config

HYPER: Mapping[str, str] = {
    **{
        f"{ours}.weights.{leaf}": f"{theirs}_{name}.weight"
        for ours, theirs in (("attn_hc", "hc_attn"), ("mlp_hc", "hc_ffn"), ("hc_head", "output_hc"))
        for leaf, name in (("weight", "fn"), ("base", "base"), ("scale", "scale"))
    },
    "self_attn.g_proj": "attn_gate",
}


def hy_v4_facts(keys: Config, names: Collection[str], config: dict[str, Any]) -> dict[str, Any]:
    """One bound on what experts multiply, said for each layer. Without an indexer every layer attends to all."""
    count = config["num_hidden_layers"]
    limits = set(keys.per_layer("swiglu_clamp_exp", count) or ())
    if len(limits) != 1:
        raise UnsupportedError("The GGUF file's layers differ in swiglu_clamp_exp, which is not implemented.")
    found = {"swiglu_limit": limits.pop()}
    if not keys.get("attention.indexer.top_k"):
        return found | {"layer_types": ["full_attention"] * count}
    own = keys.per_layer("attention.indexer.types", count) or [True] * count
    return found | {"indexer_types": ["full" if one else "shared" for one in own]}
