"""Qwen4-Exp: Qwen3.5's layers of the gated delta net and of gated attention, which goes over pools of positions that an
indexer chooses, around several gated residual streams."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

from landrace.errors import CheckpointError
from landrace.kernels.ngrams import NGrams
from landrace.models.families.config import MAX_POSITIONS, MAX_SIZE, MOST_STREAMS, Config
from landrace.models.families.dense import read_decoder
from landrace.models.families.family import Family, TextHalf
from landrace.models.families.moe import TRAINING
from landrace.models.families.qwen import VISION
from landrace.models.families.qwen_next import (
    BESIDE_TOWERS,
    MTP,
    NO_EFFECT,
    QWEN3_5_MOE,
    QWEN_CONFIG,
    SPLIT,
    read_gated_mixture,
    read_mixers,
    with_joint_experts,
)
from landrace.models.mixer_spec import Gdn, Gqa, Mixer
from landrace.models.selection_spec import PoolSelection
from landrace.models.spec import GatedStreams, ModelSpec, NGramEmbedding

_GAMMA = 0x9E3779B97F4A7C15
MOST_TOKENS, MOST_TABLES, MOST_ROWS = 4, 64, 1 << 26
"""Of an n-gram; of the tables for each length; of one table."""

QWEN4_EXP = {
    **QWEN3_5_MOE,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "partial_rotary_factor": 1.0,
    "ple_conv_kernel_size": 4,
    "ngram_size": 3,
    "heads_per_ngram": 8,
    "ngram_vocab_size_base": 20_000_000,
    "make_ngram_vocab_size_divisible_by": 128,
    "seed": 1234,
    "hc_count": 4,
    "hc_lowrank": 320,
}
STREAMS = {
    f"{ours}.{leaf}": f"{theirs}.{name}"
    for ours, theirs in (
        ("attn_hc", "attn_hyper_connection"),
        ("mlp_hc", "mlp_hyper_connection"),
        ("hc_head", "hyper_connection_mixer"),
    )
    for leaf, name in (
        ("norm", "hc_norm"),
        ("mix_down", "input_mix_weight_down"),
        ("mix_up", "input_mix_weight_up"),
        ("inject", "block_inject_weight"),
    )
}
NGRAMS = {
    "ngrams": "ple",
    "ngrams.key_norm": "ple.norm_key",
    "ngrams.query_norm": "ple.norm_query",
    "ngrams.conv_norm": "ple.norm_conv",
    "ngrams.mixed_conv": "ple.conv1d",
}
INDEX = {
    "self_attn.index_q_norm": "self_attn.indexer.q_layernorm",
    "self_attn.index_k_norm": "self_attn.indexer.k_layernorm",
}
TABLE = "ngrams.table.weight"
NAMING = replace(
    SPLIT,
    renamed={
        **SPLIT.renamed,
        **STREAMS,
        **NGRAMS,
        **INDEX,
        TABLE: "ple.ple_embedding.ngram_embedding.shard_{}.weight",
    },
    fused={**SPLIT.fused, "self_attn.indexer.index_qk_proj": ("self_attn.index_q_proj", "self_attn.index_k_proj")},
    joined=(TABLE,),
)
OWN = replace(NAMING, renamed={**NAMING.renamed, TABLE: "ple.ple_embedding.ngram_embedding.weight"}, joined=())


def read_qwen4_exp(config: Config) -> ModelSpec:
    streams = GatedStreams(config.size("hc_count", MOST_STREAMS), config.size("hc_lowrank"))
    moe = read_gated_mixture(config, config.flag("norm_topk_prob"))
    mixers = [_of_qwen4(config, mixer) for mixer in read_mixers(_with_usual_kinds(config))]
    spec = read_decoder(config, mixers, moe, residual=streams)
    ngrams = read_ngrams(config, streams)
    if any(n >= len(spec.layers) or not isinstance(spec.layers[n].mixer, Gdn) for n in ngrams):
        raise CheckpointError("config.json gives n-grams to a layer without a state.")
    layers = tuple(replace(layer, ngrams=ngrams.get(n)) for n, layer in enumerate(spec.layers))
    return replace(spec, layers=layers)


def _of_qwen4(config: Config, mixer: Mixer) -> Mixer:
    """What Qwen3.5's layers have more here."""
    if isinstance(mixer, Gdn):
        return replace(mixer, gate="sigmoid" if config.get("output_gate_type") == "sigmoid" else "silu")
    return replace(mixer, selection=_read_selection(config, mixer)) if isinstance(mixer, Gqa) else mixer


def _read_selection(config: Config, attention: Gqa) -> PoolSelection | None:
    budget = config.optional_size("indexer_budget", MAX_POSITIONS)
    if budget is None:
        return None
    pool = config.size("indexer_compress_ratio", MAX_POSITIONS)
    if pool < 2 or budget % pool:
        raise config.wrong("indexer_compress_ratio", pool, f"a divisor of {budget} above 1")
    config.require("indexer_kv_heads", 1)
    selection = PoolSelection(config.size("indexer_n_heads"), config.size("indexer_head_dim"), pool, budget // pool)
    if attention.rope is not None and selection.head_dim < attention.rope.rotary_dim:
        raise config.wrong("indexer_head_dim", selection.head_dim, f"at least {attention.rope.rotary_dim}")
    return selection


def read_ngrams(config: Config, streams: GatedStreams) -> dict[int, NGramEmbedding]:
    """By layer. Their tables' sizes and multipliers follow from a few numbers (splitmix64; Steele et al., 2014), or are
    said themselves, as in files of llama.cpp."""
    listed = config.get("ple_layer_ids") or []
    if not isinstance(listed, list) or any(type(one) is not int or one < 1 for one in listed):
        raise config.wrong("ple_layer_ids", listed, "a list of layers, counted from 1")
    found = {}
    for place, layer in enumerate(sorted(set(listed))):
        longest, heads = config.size("ngram_size", MOST_TOKENS), config.size("heads_per_ngram", MOST_TABLES)
        n_tables = (longest - 1) * heads
        width = config.optional_size("ple_embed_dim") or config.size("hidden_size")
        conv_width = config.size("ple_conv_kernel_size", MOST_TOKENS)
        filler = config.get("eos_token_id" if config.get("ple_eos_token_id") is None else "ple_eos_token_id")
        filler = filler[0] if isinstance(filler, list) and filler else filler
        if longest < 2 or width % n_tables or type(filler) is not int or filler < 0:
            raise CheckpointError(f"Layer {layer} has n-grams that do not go together with the rest of config.json.")
        sizes = _said(config, "ple_head_vocab_sizes", n_tables, MOST_ROWS)
        sizes = sizes or _primes(config.size("ngram_vocab_size_base", MOST_ROWS), place * n_tables, n_tables)
        multipliers = _said(config, "ple_layer_multipliers", longest, (1 << 63) - 1)
        step = config.size("make_ngram_vocab_size_divisible_by")
        form = NGrams(multipliers or _multipliers(config, longest, place), sizes, filler)
        channels = streams.count * config.size("hidden_size")
        found[layer - 1] = NGramEmbedding(form, -(-sum(sizes) // step) * step, width, conv_width, channels)
    return found


def _said(config: Config, key: str, count: int, limit: int) -> tuple[int, ...]:
    """Numbers from 1 to `limit`; none where the key is left out."""
    values = config.per_layer(key, count) or ()
    if any(type(one) is not int or not 1 <= one <= limit for one in values):
        raise config.wrong(key, values, f"a list of integers from 1 to {limit}")
    return tuple(values)


def _multipliers(config: Config, count: int, place: int) -> tuple[int, ...]:
    """Odd numbers that keep a token's number times one of them below 2^63."""
    bound = max(1, ((1 << 63) - 1) // config.size("vocab_size") // 2)
    first = config.count("seed", MAX_SIZE) + 10007 * place
    return tuple(2 * (_splitmix64(first + _GAMMA * (index + 1)) % bound) + 1 for index in range(count))


def _splitmix64(value: int) -> int:
    value = (value + _GAMMA) % (1 << 64)
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % (1 << 64)
    value = (value ^ value >> 27) * 0x94D049BB133111EB % (1 << 64)
    return value ^ value >> 31


def _primes(least: int, skipped: int, count: int) -> tuple[int, ...]:
    """`count` primes from the `skipped`-th that is at least `least` on."""
    primes = (n for n in itertools.count(least) if n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1)))
    return tuple(itertools.islice(primes, skipped, skipped + count))


def _with_usual_kinds(config: Config) -> Config:
    """Layers of attention are called indexed_attention here."""
    kinds = config.get("layer_types")
    if not isinstance(kinds, list):
        return config
    return config.replaced({"layer_types": ["full_attention" if one == "indexed_attention" else one for one in kinds]})


FAMILIES: Mapping[str, Family] = {
    "qwen4_exp_text": Family(
        read_qwen4_exp,
        QWEN4_EXP,
        (NAMING, with_joint_experts(OWN)),
        {"num_local_experts": "num_experts"},
        drafts=MTP,
        no_effect=(
            *(*TRAINING, *NO_EFFECT, "intermediate_size"),
            r"ple_.*|.*ngram.*|seed",
            "number_of_conv_states|mtp",
        ),
        ignorable=(
            # What follows from the configuration.
            r".*\.ple_embedding\.(layer_multipliers|ngram_heads_(vocab_sizes|offsets))",
        ),
        fixed={
            "attention_bias": False,
            "attn_output_gate": True,
            "output_gate_type": (None, "silu", "swish", "sigmoid"),
        },
    ),
}
TEXT_HALVES: Mapping[str, TextHalf] = {
    "qwen4_exp": TextHalf("qwen4_exp_text", BESIDE_TOWERS, VISION, no_effect=QWEN_CONFIG),
}
