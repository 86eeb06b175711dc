"""GLM-5.3: three layers of Kimi delta attention, whose decays have a floor, to one of latent attention that does not
turn and goes over pools of positions, around several residual streams that mix. Every feed-forward bounds what it
multiplies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from landrace.errors import CheckpointError
from landrace.kernels.activation import Activation
from landrace.kernels.streams import HyperConnections
from landrace.models.families.config import MAX_POSITIONS, MAX_SIZE, MOST_STREAMS, Config
from landrace.models.families.deepseek import NO_EFFECT, SIGMOID
from landrace.models.families.deepseek_sparse import KINDS, have_indexers
from landrace.models.families.dense import layer_kinds, n_layers, read_decoder, read_mlp
from landrace.models.families.family import INSIDE, Family, TextHalf
from landrace.models.families.kimi_k3 import read_floor
from landrace.models.families.kimi_linear import FORGETTING, read_delta
from landrace.models.families.latent import NAMES, read_latent_attention
from landrace.models.families.moe import mixed, read_deepseek_mixture, sparse_after, sparse_by_name
from landrace.models.families.names import DEEPSEEK_EXPERTS, JOINT, ONE_BY_ONE
from landrace.models.families.qwen import VISION
from landrace.models.mixer_spec import Kda, Mla
from landrace.models.selection_spec import Selection
from landrace.models.spec import Hyper, ModelSpec

GLM5_NEXT = {
    "vocab_size": 154880, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 45,
    "num_attention_heads": 64, "max_position_embeddings": 1048576, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "attention_bias": False, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 256, "qk_rope_head_dim": 0,
    "v_head_dim": 256, "n_routed_experts": 288, "n_shared_experts": 1, "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048, "routed_scaling_factor": 2.5, "norm_topk_prob": True, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 3, "swiglu_limit": 10.0, "index_topk": 2048, "index_head_dim": 128, "index_n_heads": 32,
    "index_kpool": 16, "index_topk_freq": 1, "index_skip_topk_offset": 2, "linear_head_dim": 128,
    "linear_num_heads": 64, "linear_conv_kernel_dim": 4, "linear_lower_bound": -5.0,
    "hc_mult": 4, "hc_eps": 1e-6, "hc_sinkhorn_iters": 20,
}  # fmt: skip

DECAYS = {"self_attn.a_log.weight": "self_attn.A_log", "self_attn.dt_bias.weight": "self_attn.dt_bias"}
LEAVES = {"weight": "fn", "base": "base", "scale": "scale"}
SHARED_NAMES = {
    **NAMES.renamed,
    **DEEPSEEK_EXPERTS,
    "self_attn.gated_norm": "self_attn.o_norm",
    "self_attn.indexer.pool_gate.weight": "self_attn.indexer.index_kpool_compress_gate",
    "self_attn.indexer.place_bias.weight": "self_attn.indexer.index_kpool_compress_ape",
}


def _streams(written: str) -> dict[str, str]:
    """What the weights of streams are called: {} are attn or ffn, and fn, base or scale."""
    branches = {"attn_hc": "attn", "mlp_hc": "ffn"}
    return {
        f"{ours}.weights.{leaf}": written.format(branch, theirs)
        for ours, branch in branches.items()
        for leaf, theirs in LEAVES.items()
    }


HUB = replace(
    NAMES,
    renamed={
        **SHARED_NAMES,
        **DECAYS,
        **ONE_BY_ONE,
        **_streams("hc_{}_{}"),
        **{f"self_attn.{one}_conv": f"self_attn.{one}_conv1d" for one in "qkv"},
    },
)
OWN = replace(
    NAMES,
    renamed={
        **SHARED_NAMES,
        **{ours: theirs.replace("self_attn.", "self_attn.forget_gate.") for ours, theirs in DECAYS.items()},
        **{f"self_attn.{one}": f"self_attn.forget_gate.{one}" for one in FORGETTING},
        **_streams("{}_hc.{}"),
    },
    fused={**NAMES.fused, **JOINT, "self_attn.conv1d": tuple(f"self_attn.{one}_conv" for one in "qkv")},
)


def read_glm5_next(config: Config) -> ModelSpec:
    count = n_layers(config)
    meanings = {"linear_attention": False, "full_attention": True, **dict.fromkeys(KINDS, True)}
    attends = layer_kinds(config, "layer_types", count, meanings) or [n % 4 == 3 for n in range(count)]
    own, attention, delta = have_indexers(config), _read_attention(config), _read_delta(config)
    if any(attends[n] and not own[n] and not (n and attends[n - 1]) for n in range(count)):
        raise CheckpointError("A layer has no indexer, and the one before it chooses nothing.")
    assert attention.selection is not None
    followers = replace(attention, selection=replace(attention.selection, own=False))
    mixers = [(attention if own[n] else followers) if attends[n] else delta for n in range(count)]
    activation = Activation("clamp_before", config.number("swiglu_limit"))
    dense, moe = replace(read_mlp(config), activation=activation), read_deepseek_mixture(config)
    assert moe.shared is not None
    moe = replace(moe, activation=activation, shared=replace(moe.shared, activation=activation))
    sparse = sparse_by_name(config) or sparse_after(config, "first_k_dense_replace")
    form = HyperConnections(
        config.size("hc_mult", MOST_STREAMS), config.number("hc_eps"), iterations=config.size("hc_sinkhorn_iters", 1000)
    )
    return read_decoder(config, mixers, mixed(sparse, dense, moe), residual=Hyper(form, weighted_head=False))


def _read_attention(config: Config) -> Mla:
    """The norms of the ranks have the model's epsilon here, but the indexer's has not."""
    latent = read_latent_attention(config, turns=False)
    if latent.rope_dim:
        raise config.wrong("qk_rope_head_dim", latent.rope_dim, "0")
    if latent.q_rank is None:
        raise CheckpointError("config.json does not say q_lora_rank, which the indexer's queries come out of.")
    selection = Selection(
        config.size("index_n_heads"),
        config.size("index_head_dim"),
        config.size("index_topk", MAX_POSITIONS),
        pool=config.size("index_kpool", MAX_SIZE),
    )
    if selection.pool < 2 or selection.top_k % selection.pool:
        raise config.wrong("index_kpool", selection.pool, f"a divisor of {selection.top_k} above 1")
    return replace(latent, rank_eps=config.number("rms_norm_eps"), selection=selection)


def _read_delta(config: Config) -> Kda:
    published = config.section("linear_attn_config")
    delta, floor = read_delta(config, published), config.get("linear_lower_bound")
    if published is not None:
        floor = published.get("gate_lower_bound") if "gate_lower_bound" in published else floor
        floor = -5.0 if floor is None and published.get("safe_gate") is not False else floor
        published.finish(("full_attn_layers|kda_layers",))
    return replace(delta, decay_floor=read_floor(config, "linear_lower_bound", floor))


FAMILIES: Mapping[str, Family] = {
    "glm5_next_text": Family(
        read_glm5_next,
        GLM5_NEXT,
        (HUB, OWN),
        {"num_local_experts": "n_routed_experts"},
        no_effect=(
            *(*NO_EFFECT, "index_share_for_mtp_iteration", "moe_router_dtype", "first_k_dense_replace"),
            r"rope_(theta|parameters|scaling)|indexer_rope_interleave",  # Nothing turns.
            r"linear_(num_heads|head_dim|conv_kernel_dim|lower_bound)",  # Where the hub's object says them too.
        ),
        fixed={
            **SIGMOID,
            "mla_use_nope": True,
            "mhc": True,
            "index_kpool_compress": True,
            "index_kpool_always_select_tail": True,
        },
    ),
}
TEXT_HALVES: Mapping[str, TextHalf] = {"glm5_next": TextHalf("glm5_next_text", INSIDE, VISION)}
