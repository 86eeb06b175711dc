"""Hy4: latent attention with sinks and gated channels, experts with a clamped activation, and several residual streams
that do not mix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from landrace.kernels.activation import Activation
from landrace.kernels.streams import HyperConnections
from landrace.models.families.config import MOST_STREAMS, Config
from landrace.models.families.deepseek import NO_EFFECT
from landrace.models.families.deepseek_sparse import read_selecting_attention, with_shared_choices
from landrace.models.families.dense import n_layers, read_decoder, read_mlp
from landrace.models.families.family import Family
from landrace.models.families.latent import NAMES, read_latent_attention
from landrace.models.families.moe import mixed, read_deepseek_mixture, sparse_after, sparse_by_name
from landrace.models.families.names import DEEPSEEK_EXPERTS, JOINT
from landrace.models.mixer_spec import Mla
from landrace.models.spec import Hyper, ModelSpec

HY_V4 = {
    "vocab_size": 120832, "hidden_size": 2816, "intermediate_size": 6912, "num_hidden_layers": 34,
    "num_attention_heads": 32, "max_position_embeddings": 262144, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
    "tie_word_embeddings": False, "attention_bias": False, "q_lora_rank": 1536, "kv_lora_rank": 512,
    "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256, "n_routed_experts": 256, "n_shared_experts": 1,
    "num_experts_per_tok": 8, "moe_intermediate_size": 768, "routed_scaling_factor": 2.827, "norm_topk_prob": True,
    "n_group": 1, "topk_group": 1, "swiglu_limit": 10.0, "hc_mult": 4, "hc_magnitude": 2.0, "hc_eps": 1e-6,
    "first_k_dense_replace": 1, "index_topk": 2048, "index_head_dim": 128, "index_n_heads": 16,
    "index_topk_freq": 4, "index_skip_topk_offset": 2,
}  # fmt: skip


LEAVES = {"weight": "fn", "base": "base", "scale": "scale"}


def stream_names(attention: str, feed_forward: str, head: str) -> dict[str, str]:
    """What the weights of streams are called, {} being fn, base or scale."""
    found = {"attn_hc": attention, "mlp_hc": feed_forward, "hc_head": head}
    return {
        f"{ours}.weights.{leaf}": theirs.format(name) for ours, theirs in found.items() for leaf, name in LEAVES.items()
    }


ATTENTION = {"self_attn.g_proj": "self_attn.linear_gate", "self_attn.sinks.weight": "self_attn.learnable_sink_param"}
HUB = {**ATTENTION, **stream_names("hc_attn_layer.hc_pre.hc_{}", "hc_mlp_layer.hc_pre.hc_{}", "hc_head.hc_head_{}")}
# What transformers makes of the hub's names when it writes.
WRITTEN = {
    **ATTENTION,
    **stream_names("hc_pre.hc_attn_layer.hc_{}", "hc_pre.hc_mlp_layer.hc_{}", "hc_pre.hc_head.hc_head_{}"),
    "mlp.gate_proj": "mlp.linear_gate",
    "mlp.shared_expert.gate_proj": "mlp.shared_experts.linear_gate",
}
OWN = {
    **stream_names("attn_hc.{}", "ffn_hc.{}", "hc_head.hc_{}"),
    "self_attn.g_proj": "self_attn.gate_proj",
    "self_attn.sinks.weight": "self_attn.sinks",
}
BASE = replace(NAMES, index_last=True, renamed={**NAMES.renamed, **DEEPSEEK_EXPERTS}, fused={**NAMES.fused, **JOINT})
PUBLISHED, *AS_TRANSFORMERS = (replace(BASE, renamed={**BASE.renamed, **names}) for names in (HUB, WRITTEN, OWN))
# Published weights turn in pairs, of heads and of indexers, as Tencent's own engines turn them (vLLM, llama.cpp).
# transformers turns them in halves, and so what it has written.
NAMINGS = (replace(PUBLISHED, interleaved=True, index_interleaved=True), *AS_TRANSFORMERS)


def read_hyper_connections(config: Config) -> HyperConnections:
    """Streams that do not mix; what they take of a branch's result is never quite 0."""
    eps = config.number("hc_eps")
    return HyperConnections(config.size("hc_mult", MOST_STREAMS), eps, config.number("hc_magnitude"), post_eps=eps)


def read_hy_v4(config: Config) -> ModelSpec:
    mixers = [replace(one, sinks=True, gate="channel") for one in _read_attentions(config)]
    moe = replace(read_deepseek_mixture(config), activation=Activation("clamp_before", config.number("swiglu_limit")))
    sparse = sparse_by_name(config) or sparse_after(config, "first_k_dense_replace")
    streams = Hyper(read_hyper_connections(config))
    return read_decoder(config, mixers, mixed(sparse, read_mlp(config), moe), residual=streams)


def _read_attentions(config: Config) -> list[Mla]:
    """Over positions that an indexer chooses, in all layers or in none."""
    kinds, count = config.get("layer_types"), n_layers(config)
    if kinds == ["full_attention"] * count:
        return [read_latent_attention(config)] * count
    chosen = read_selecting_attention(config, index_eps=config.number("rms_norm_eps"))
    return with_shared_choices(config, chosen)


FAMILIES: Mapping[str, Family] = {
    "hy_v4": Family(
        read_hy_v4,
        HY_V4,
        NAMINGS,
        {"num_local_experts": "n_routed_experts"},
        no_effect=(*NO_EFFECT, "learnable_sink_init", r"index_.*|indexer_types"),
        drafts=(r"model\.mtp_layers\..*",),
    ),
}
