"""MiniMax-M3: grouped-query attention over blocks of positions that an indexer chooses, and a mixture of experts. Norms
are stored around zero, a part of each head rotates, and every feed-forward bounds what it multiplies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from landrace.errors import UnsupportedError
from landrace.kernels.activation import Activation
from landrace.kernels.head_form import QkNorm
from landrace.kernels.router import Router
from landrace.models.families.config import MAX_POSITIONS, Config
from landrace.models.families.dense import layer_kinds, n_layers, read_attention, read_decoder
from landrace.models.families.family import WRAPPED, Family, TextHalf
from landrace.models.families.moe import TRAINING, mixed, read_experts, sparse_by_name
from landrace.models.families.names import JOINT, ONE_BY_ONE, Naming
from landrace.models.ffn_spec import Dense, Moe
from landrace.models.mixer_spec import Gqa
from landrace.models.selection_spec import BlockSelection
from landrace.models.spec import ModelSpec

MINIMAX_M3 = {
    "vocab_size": 200064, "hidden_size": 6144, "intermediate_size": 3072, "num_hidden_layers": 60,
    "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 524288,
    "rms_norm_eps": 1e-6, "rope_theta": 5_000_000.0, "tie_word_embeddings": False, "num_experts_per_tok": 4,
    "num_local_experts": 128, "dense_intermediate_size": 12288, "shared_intermediate_size": 3072,
    "routed_scaling_factor": 2.0, "rotary_dim": 64, "swiglu_alpha": 1.702, "swiglu_limit": 7.0, "index_n_heads": 4,
    "index_head_dim": 128, "index_block_size": 128, "index_topk_blocks": 16, "index_local_blocks": 1,
}  # fmt: skip
KINDS = {"full_attention": False, "minimax_m3_sparse": True}
OF_SECTION = {
    "sparse_num_index_heads": "index_n_heads",
    "sparse_index_dim": "index_head_dim",
    "sparse_block_size": "index_block_size",
    "sparse_topk_blocks": "index_topk_blocks",
    "sparse_local_block": "index_local_blocks",
}
"""Keys of the hub's `sparse_attention_config` to those that transformers writes."""

INDEX = {
    "self_attn.index_q_proj": "self_attn.indexer.q_proj",
    "self_attn.index_k_proj": "self_attn.indexer.k_proj",
    "self_attn.index_q_norm": "self_attn.indexer.q_norm",
    "self_attn.index_k_norm": "self_attn.indexer.k_norm",
}
HUB = Naming(
    renamed={
        **ONE_BY_ONE,
        "mlp.router": "block_sparse_moe.gate",
        "mlp.router.choice_bias": "block_sparse_moe.e_score_correction_bias",
        "mlp.experts.gate_proj": "block_sparse_moe.experts.{}.w1",
        "mlp.experts.up_proj": "block_sparse_moe.experts.{}.w3",
        "mlp.experts.down_proj": "block_sparse_moe.experts.{}.w2",
        "mlp.shared_expert": "block_sparse_moe.shared_experts",
    },
    norms_around_zero=True,
)
OWN = Naming(
    renamed={
        **INDEX,
        "mlp.router": "mlp.gate",
        "mlp.router.choice_bias": "mlp.gate.e_score_correction_bias",
        "mlp.shared_expert": "mlp.shared_experts",
    },
    fused={
        **JOINT,
        "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.shared_experts.gate_up_proj": ("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
    },
    norms_around_zero=True,
)


def read_minimax_m3(config: Config) -> ModelSpec:
    count = n_layers(config)
    config, chooses = _read_section(config, count)
    chooses = layer_kinds(config, "layer_types", count, KINDS) or chooses
    rotary_dim = config.optional_size("rotary_dim")
    if rotary_dim is not None:
        config = config.replaced({"partial_rotary_factor": rotary_dim / config.size("head_dim")})
    attention = read_attention(config, qk_norm=QkNorm("before_rope"), partial_rotary=True)
    selecting = replace(attention, selection=_read_selection(config, attention))
    activation = Activation("oai", config.number("swiglu_limit"), config.number("swiglu_alpha"))
    experts, chosen = read_experts(config, "num_local_experts", "num_experts_per_tok")
    config.require("n_shared_experts", 1)
    moe = Moe(
        experts,
        config.size("intermediate_size"),
        Router(chosen, "sigmoid", choice_bias=True, renorm=True, scale=config.number("routed_scaling_factor")),
        activation=activation,
        shared=Dense(config.size("shared_intermediate_size"), activation=activation),
    )
    dense = Dense(config.size("dense_intermediate_size"), activation=activation)
    by_number = config.per_layer("moe_layer_freq", count) or [1] * count
    sparse = sparse_by_name(config) or [bool(one) for one in by_number]
    return read_decoder(config, [selecting if one else attention for one in chooses], mixed(sparse, dense, moe))


def _read_section(config: Config, count: int) -> tuple[Config, list[bool]]:
    """The keys of `sparse_attention_config` under the names that transformers gives them, and which layers choose."""
    section = config.section("sparse_attention_config")
    if section is None:
        return config, [False] * count
    found = {ours: section.get(theirs) for theirs, ours in OF_SECTION.items() if theirs in section}
    by_number = section.per_layer("sparse_attention_freq", count) or [0] * count
    without_value = section.per_layer("sparse_disable_index_value", count) or by_number
    if any(one and not other for one, other in zip(by_number, without_value, strict=True)):
        raise UnsupportedError("The configuration's indexers have values, which is not implemented.")
    fixed = {"use_sparse_attention": True, "sparse_init_block": 0, "sparse_score_type": "max"}
    section.finish(fixed=fixed)
    return config.replaced(found), [bool(one) for one in by_number]


def _read_selection(config: Config, attention: Gqa) -> BlockSelection:
    if config.size("index_n_heads") != attention.n_kv_heads:
        raise UnsupportedError("The configuration's indexer has not one head for each head of keys.")
    selection = BlockSelection(
        config.size("index_head_dim"),
        config.size("index_block_size", MAX_POSITIONS),
        config.size("index_topk_blocks", MAX_POSITIONS),
        config.size("index_local_blocks", MAX_POSITIONS),
    )
    if selection.n_local > selection.top_k:
        raise config.wrong("index_local_blocks", selection.n_local, f"at most {selection.top_k}")
    if attention.rope is not None and selection.head_dim < attention.rope.rotary_dim:
        raise config.wrong("index_head_dim", selection.head_dim, f"at least {attention.rope.rotary_dim}")
    return selection


FAMILIES: Mapping[str, Family] = {
    "minimax_m3_vl_text": Family(
        read_minimax_m3,
        MINIMAX_M3,
        (HUB, OWN),
        {"num_experts": "num_local_experts"},
        drafts=(r"(.*\.)?mtp\..*",),
        no_effect=(*TRAINING, r"num_mtp_modules|use_mtp|mtp_transformer_layers"),
        fixed={
            "hidden_act": ("silu", "swigluoai"),
            "scoring_func": "sigmoid",
            "use_routing_bias": True,
            "use_qk_norm": True,
            "qk_norm_type": "per_head",
            "use_gemma_norm": True,
        },
    ),
}
TEXT_HALVES: Mapping[str, TextHalf] = {
    "minimax_m3_vl": TextHalf(
        "minimax_m3_vl_text",
        WRAPPED,
        (r"(model\.)?(vision_tower|multi_modal_projector|patch_merge_mlp)\..*",),
        no_effect=("vision_config", "projector_hidden_size", "merged_hidden_size", "img_token_compression_config"),
    ),
}
