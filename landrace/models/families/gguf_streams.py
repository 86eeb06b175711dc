"""What a GGUF file says of several residual streams, and what it calls their weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from landrace.errors import UnsupportedError
from landrace.models.compressed_spec import Compressed
from landrace.models.families.config import Config
from landrace.models.families.gguf_architecture import without_drafts
from landrace.models.ffn_spec import Moe
from landrace.models.mixer_spec import Mla
from landrace.models.spec import ModelSpec

HYPER: Mapping[str, str] = {
    **{
        f"{ours}.weights.{leaf}": f"{theirs}_{name}.weight"
        for ours, theirs in (("attn_hc", "hc_attn"), ("mlp_hc", "hc_ffn"), ("hc_head", "output_hc"))
        for leaf, name in (("weight", "fn"), ("base", "base"), ("scale", "scale"))
    },
    "self_attn.g_proj": "attn_gate",
}


COMPRESSED: Mapping[str, str] = {
    **HYPER,
    "self_attn.kv_proj": "attn_kv",
    "self_attn.kv_norm": "attn_kv_a_norm",
    "self_attn.o_a_proj": "attn_output_a",
    "self_attn.o_b_proj": "attn_output_b",
    "self_attn.index_q_proj": "indexer.attn_q_b",
    "self_attn.index_weights_proj": "indexer.proj",
    **{
        f"self_attn.{ours}_{part}": f"{theirs}_compressor_{name}"
        for ours, theirs in (("compress", "attn"), ("index", "indexer"))
        for part, name in (("proj", "kv"), ("gate_proj", "gate"), ("bias", "ape"), ("norm", "norm"))
    },
    "mlp.router.table": "ffn_gate_tid2eid.weight",
}


def deepseek_v4_facts(keys: Config, names: Collection[str], config: dict[str, Any]) -> dict[str, Any]:
    return {
        **without_drafts(keys, config),
        "swiglu_limit": one_limit(keys, "swiglu_clamp_exp", "swiglu_clamp_shexp"),
        "compress_ratios": keys.get("attention.compress_ratios"),
    }


def one_limit(keys: Config, *names: str) -> Any:
    """One value that all keys say of all layers: each is stored once or once a layer, or not at all."""
    values = [keys.get(name) for name in names]
    found = {one for value in values if value is not None for one in (value if isinstance(value, list) else [value])}
    if len(found) != 1:
        raise UnsupportedError(f"The GGUF file's layers differ in {names[0]}, which is not implemented.")
    return found.pop()


def written_compressed(spec: ModelSpec, stated: Mapping[str, Any]) -> dict[str, Any]:
    """`deepseek_v4_facts` the other way round, and what architectures with streams are told besides. Layers of one kind
    are alike; which they are, the first of each says."""
    mixers = [layer.mixer for layer in spec.layers if isinstance(layer.mixer, Compressed)]
    if not mixers:
        return {}
    first, count = mixers[0], len(mixers)
    by_token = [isinstance(layer.ffn, Moe) and layer.ffn.router.by_token for layer in spec.layers]
    turning = {mixer.compression is None: mixer.rope.theta for mixer in reversed(mixers)}
    return {
        "attention.head_count": first.n_heads,
        "attention.head_count_kv": 1,
        "attention.key_length": first.head_dim,
        "attention.value_length": first.head_dim,
        "attention.compress_ratios": [0 if one.compression is None else one.compression.ratio for one in mixers],
        "attention.compress_rope_freq_base": turning.get(False, stated["compress_rope_theta"]),
        "rope.freq_base": turning.get(True, stated["rope_theta"]),
        "hash_layer_count": sum(by_token),
        "expert_shared_count": 1,
        "expert_weights_norm": True,
        "swiglu_clamp_exp": [stated["swiglu_limit"]] * count,
        "swiglu_clamp_shexp": [stated["swiglu_limit"]] * count,
    }


def hy_v4_facts(keys: Config, names: Collection[str], config: dict[str, Any]) -> dict[str, Any]:
    """One bound on what experts multiply, said for each layer. Without an indexer every layer attends to all."""
    count = config["num_hidden_layers"]
    keys.per_layer("swiglu_clamp_exp", count)
    found = {"swiglu_limit": one_limit(keys, "swiglu_clamp_exp")}
    if not keys.get("attention.indexer.top_k"):
        return found | {"layer_types": ["full_attention"] * count}
    own = keys.per_layer("attention.indexer.types", count) or [True] * count
    return found | {"indexer_types": ["full" if one else "shared" for one in own]}


def written_hy_v4(spec: ModelSpec, stated: dict[str, Any]) -> dict[str, Any]:
    """The same, the other way round."""
    limit = {"swiglu_clamp_exp": [float(stated["swiglu_limit"])] * len(spec.layers)}
    return limit | written_indexers(spec, stated)


def written_indexers(spec: ModelSpec, stated: dict[str, Any]) -> dict[str, Any]:
    """Which layers choose for themselves, where some do not."""
    mixers = [layer.mixer for layer in spec.layers]
    own = [not isinstance(one, Mla) or one.selection is None or one.selection.own for one in mixers]
    return {} if all(own) else {"attention.indexer.types": own}
