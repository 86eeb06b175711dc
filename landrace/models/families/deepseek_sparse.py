"""Models whose latent attention goes over positions that an indexer chooses: DeepSeek-V3.2 (`deepseek_v32`) and GLM-5
(`glm_moe_dsa`). Attention turns interleaved pairs in both, the indexer halves in DeepSeek-V3.2 and pairs in GLM-5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.families.config import MAX_LAYERS, MAX_POSITIONS, Config, shown
from landrace.models.families.deepseek import ALIASES, NAMINGS, NO_EFFECT, SIGMOID, V3, read_feed_forward
from landrace.models.families.dense import layer_kinds, n_layers, read_decoder
from landrace.models.families.family import Family
from landrace.models.families.latent import read_latent_attention
from landrace.models.mixer_spec import Mla
from landrace.models.selection_spec import Selection
from landrace.models.spec import ModelSpec

V32 = {**V3, "max_position_embeddings": 163840, "index_topk": 2048, "index_head_dim": 128, "index_n_heads": 64}
GLM5 = {
    **V32, "vocab_size": 154880, "hidden_size": 6144, "intermediate_size": 12288, "num_hidden_layers": 78,
    "num_attention_heads": 64, "max_position_embeddings": 202752, "rms_norm_eps": 1e-5, "q_lora_rank": 2048,
    "qk_nope_head_dim": 192, "v_head_dim": 256, "n_group": 1, "topk_group": 1, "index_n_heads": 32,
    "index_topk_freq": 1, "index_skip_topk_offset": 2,
}  # fmt: skip
KINDS = ("indexed_attention", "deepseek_sparse_attention")
OF_GLM5 = tuple(replace(naming, index_interleaved=True) for naming in NAMINGS)


def read_selecting_attention(config: Config, *, index_eps: float = 1e-6) -> Mla:
    """`index_eps`: of the norm of the indexer's keys."""
    layer_kinds(config, "layer_types", n_layers(config), dict.fromkeys(KINDS, True))
    attention = read_latent_attention(config)
    if attention.q_rank is None:
        raise CheckpointError("config.json does not say q_lora_rank, which the indexer's queries come out of.")
    selection = Selection(
        config.size("index_n_heads"),
        config.size("index_head_dim"),
        config.size("index_topk", MAX_POSITIONS),
        norm_eps=index_eps,
    )
    if selection.head_dim < attention.rope_dim:
        raise CheckpointError(f"An indexer's {selection.head_dim} channels cannot hold {attention.rope_dim} that turn.")
    return replace(attention, selection=selection)


def read_deepseek_v32(config: Config) -> ModelSpec:
    return read_decoder(config, read_selecting_attention(config), read_feed_forward(config))


def read_glm_moe_dsa(config: Config) -> ModelSpec:
    mixers = with_shared_choices(config, read_selecting_attention(config))
    return read_decoder(config, mixers, read_feed_forward(config))


def with_shared_choices(config: Config, attention: Mla) -> list[Mla]:
    """Some layers have no indexer and take what the nearest one before them has chosen."""
    own = have_indexers(config)
    assert attention.selection is not None
    if not own[0]:
        raise CheckpointError("The first layer has no indexer, and there is none before it.")
    return [replace(attention, selection=replace(attention.selection, own=one)) for one in own]


def have_indexers(config: Config) -> list[bool]:
    """By layer: a list or a string of letters says so, or how often they come."""
    count, meanings = n_layers(config), {"full": True, "shared": False, "F": True, "S": False}
    every, first = config.size("index_topk_freq", MAX_LAYERS), config.count("index_skip_topk_offset")
    by_step = [max(n - first + 1, 0) % every == 0 for n in range(count)]
    pattern = config.get("index_topk_pattern")
    if pattern is not None:
        letters = list(pattern) if isinstance(pattern, (str, list)) else []
        if len(letters) != count or any(not isinstance(one, str) or one not in meanings for one in letters):
            raise UnsupportedError(
                f"config.json sets index_topk_pattern to {shown(pattern)}, which is not implemented."
            )
        by_step = [meanings[one] for one in letters]
    return layer_kinds(config, "indexer_types", count, meanings) or by_step


FAMILIES: Mapping[str, Family] = {
    "deepseek_v32": Family(
        read_deepseek_v32,
        V32,
        NAMINGS,
        ALIASES,
        no_effect=NO_EFFECT,
        fixed={**SIGMOID, "indexer_rope_interleave": False},
    ),
    "glm_moe_dsa": Family(
        read_glm_moe_dsa,
        GLM5,
        OF_GLM5,
        ALIASES,
        no_effect=(*NO_EFFECT, "index_share_for_mtp_iteration", "moe_router_dtype"),
        fixed={**SIGMOID, "indexer_rope_interleave": True},
    ),
}
