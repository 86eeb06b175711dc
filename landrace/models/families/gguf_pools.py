"""GGUF files of models whose attention goes over chosen pools of positions: GLM-5.3 and Qwen4-Exp.

Facts from llama.cpp: in GLM-5.3 a layer without heads of keys and values keeps a state, and every norm of ranks has the
model's epsilon. Qwen4-Exp's n-grams are of one layer; the file says their multipliers and the sizes of their tables,
which lie outside the layers, in one tensor with rows behind them that nothing reads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from typing import Any

from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.families import gguf_delta, gguf_streams
from landrace.models.families.config import MAX_LAYERS, Config
from landrace.models.families.gguf_architecture import (
    BLOCK_INDEXER,
    GATED_QUERIES,
    INDEXER_READS,
    NEXT_FIXED,
    NEXT_READS,
    NUMBER,
    QWEN_EXPERTS,
    ROUTED_EXPERTS,
    SIGMOID,
    SIZE,
    Architecture,
    Facts,
    without_drafts,
)
from landrace.models.families.gguf_rope import ReadTensor
from landrace.models.ffn_spec import Moe
from landrace.models.mixer_spec import Gqa, Kda
from landrace.models.selection_spec import PoolSelection
from landrace.models.spec import ModelSpec

LAYER_NORM_EPS, RATIOS = "attention.layer_norm_epsilon", "attention.compress_ratios"
INDEXER_EPS = 1e-6
"""Of the norm of GLM-5.3's keys of pools, whatever the model's is."""
POOLING = {"self_attn.indexer.pool_gate": "indexer_compressor_gate",
           "self_attn.indexer.place_bias": "indexer_compressor_ape"}  # fmt: skip
STREAMS = {
    f"{ours}.{leaf}": f"{theirs}_{name}"
    for ours, theirs in (("attn_hc", "hc_attn"), ("mlp_hc", "hc_ffn"), ("hc_head", "output_hc"))
    for leaf, name in (("norm", "norm"), ("mix_down", "down"), ("mix_up", "up"), ("inject", "inject"))
}
NGRAMS = {
    "ngrams.key_proj": "ple_key", "ngrams.value_proj": "ple_value", "ngrams.mixed_conv": "ple_conv1d",
    **{f"ngrams.{one}_norm": f"ple_norm_{one}" for one in ("key", "query", "conv")},
}  # fmt: skip


def _glm5_next(keys: Config, names: Collection[str], config: Facts) -> Facts:
    layers, eps = without_drafts(keys, config), keys.optional_number(LAYER_NORM_EPS)
    all_layers, count = config["num_hidden_layers"], layers["num_hidden_layers"]
    if eps is not None and not math.isclose(eps, INDEXER_EPS, rel_tol=1e-3):
        raise UnsupportedError(f"The GGUF file sets {LAYER_NORM_EPS} to {eps}, which is not implemented.")
    recurrent = (keys.per_layer(gguf_delta.RECURRENT, all_layers) or [])[:count]
    own = keys.per_layer("attention.indexer.types", count) or [True] * count
    return {
        **gguf_delta.of_kimi_delta(keys, config),
        **layers,
        "layer_types": gguf_delta.layer_types(recurrent),
        "indexer_types": ["full" if one else "shared" for one in own],
        "linear_lower_bound": keys.get("kda.gate_lower_bound"),
        "norm_topk_prob": bool(keys.get("expert_weights_norm")),
        "swiglu_limit": gguf_streams.one_limit(keys, "swiglu_clamp_exp", "swiglu_clamp_shexp"),
    }


def _written_glm5_next(spec: ModelSpec, stated: Facts) -> Facts:
    mixers, ffns = [layer.mixer for layer in spec.layers], [layer.ffn for layer in spec.layers]
    floors = {mixer.decay_floor for mixer in mixers if isinstance(mixer, Kda)}
    limits = [float(stated["swiglu_limit"])] * len(mixers)
    return {
        **gguf_delta.written_kimi(spec, stated),
        **gguf_streams.written_indexers(spec, stated),
        "kda.gate_lower_bound": next(iter(floors), None),
        LAYER_NORM_EPS: INDEXER_EPS,
        "expert_weights_norm": next((ffn.router.renorm for ffn in ffns if isinstance(ffn, Moe)), None),
        "swiglu_clamp_exp": limits,
        "swiglu_clamp_shexp": limits,
    }


def _nothing_turns(
    keys: Config, config: Mapping[str, Any], tensor_names: Collection[str], read_tensor: ReadTensor | None
) -> Facts:
    keys.require("rope.dimension_count", 0)
    return {}


def _qwen4_exp(keys: Config, names: Collection[str], config: Facts) -> Facts:
    found = gguf_delta.delta_facts(keys, names, config)
    all_layers, count = config["num_hidden_layers"], found["num_hidden_layers"]
    interval = found["full_attention_interval"]
    recurrent = keys.per_layer(gguf_delta.RECURRENT, all_layers) or [(n + 1) % interval != 0 for n in range(count)]
    recurrent, ratios = recurrent[:count], (keys.per_layer(RATIOS, all_layers) or [])[:count]
    pools = {ratio for ratio in ratios if ratio}
    if len(pools) != 1 or any(bool(ratio) == bool(own) for ratio, own in zip(ratios, recurrent, strict=True)):
        raise UnsupportedError(f"The GGUF file's layers with attention do not all have the same {RATIOS}.")
    return {
        **found,
        "layer_types": gguf_delta.layer_types(recurrent),
        "indexer_compress_ratio": pools.pop(),
        **(_ngrams(keys) if keys.get("ple.layers") else {}),
    }


def _ngrams(keys: Config) -> Facts:
    """The table has as many rows as the heads' ranges say, or more."""
    layers, sizes, offsets = (keys.get(f"ple.{name}") for name in ("layers", "head_vocab_sizes", "head_offsets"))
    multipliers, longest = keys.get("ple.layer_multipliers"), keys.size("ple.ngram_size", MAX_LAYERS)
    listed = (layers, sizes, offsets, multipliers)
    if not all(isinstance(one, list) and all(type(entry) is int for entry in one) for one in listed):
        raise CheckpointError("The GGUF metadata do not list what its n-grams are hashed by.")
    if len(layers) != 1:
        raise UnsupportedError(f"The GGUF file has n-grams in {len(layers)} layers, which is not implemented.")
    if offsets != [0, *itertools.accumulate(sizes)][: len(sizes)]:
        raise UnsupportedError("The GGUF file's tables of n-grams do not follow one another.")
    return {
        "ple_layer_ids": [layers[0] + 1],
        "ngram_size": longest,
        "heads_per_ngram": keys.size("ple.heads_per_ngram", MAX_LAYERS),
        "ple_conv_kernel_size": keys.size("ple.conv_kernel"),
        "ple_embed_dim": len(sizes) * keys.size("embedding_length_per_layer_input"),
        "ple_eos_token_id": keys.count("ple.eos_token_id", 1 << 31),
        "ple_layer_multipliers": multipliers[:longest],
        "ple_head_vocab_sizes": sizes,
        "make_ngram_vocab_size_divisible_by": 1,
    }


def _written_qwen4_exp(spec: ModelSpec, stated: Facts) -> Facts:
    selections = [layer.mixer.selection if isinstance(layer.mixer, Gqa) else None for layer in spec.layers]
    own: Facts = {RATIOS: [one.pool if isinstance(one, PoolSelection) else 0 for one in selections]}
    for place, layer in enumerate(spec.layers):
        if layer.ngrams is not None:
            form = layer.ngrams.form
            own |= {
                "ple.layers": [*own.get("ple.layers", []), place],
                "ple.ngram_size": form.longest,
                "ple.heads_per_ngram": form.per_length,
                "ple.conv_kernel": layer.ngrams.conv_width,
                "ple.eos_token_id": form.filler,
                "ple.layer_multipliers": list(form.multipliers),
                "ple.head_vocab_sizes": list(form.sizes),
                "ple.head_offsets": [0, *itertools.accumulate(form.sizes)][: len(form.sizes)],
                "embedding_length_per_layer_input": layer.ngrams.width // len(form.sizes),
            }
    return own


ARCHITECTURES: Mapping[str, Architecture] = {
    "glm5-next": Architecture(
        "glm5_next_text", latent=True, renamed={**gguf_delta.KIMI, **gguf_streams.HYPER, **POOLING},
        experts=ROUTED_EXPERTS, score=SIGMOID, fixed={"attention.indexer.kpool_select_tail": True},
        no_effect=("attention.indexer.index_share_mtp", "expert_shared_feed_forward_length", "rope.freq_base"),
        reads={
            **INDEXER_READS, "index_kpool": (SIZE, "attention.indexer.kpool"),
            "hc_mult": (SIZE, "hyper_connection.count"), "hc_eps": (NUMBER, "hyper_connection.epsilon"),
            "hc_sinkhorn_iters": (SIZE, "hyper_connection.sinkhorn_iterations"),
        },
        adds={"routed_scaling_factor": 1.0}, more=_glm5_next, rope=_nothing_turns, prepared=gguf_delta.kimi_keys,
        writes=_written_glm5_next,
    ),
    "qwen4exp": Architecture(
        "qwen4_exp_text", heads_in_rounds=True,
        renamed={**gguf_delta.RENAMED, **STREAMS, **BLOCK_INDEXER, **NGRAMS},
        once={"ngrams.table.weight": "per_layer_token_embd.weight"},
        fused=gguf_delta.OF_QWEN3_5, by_head=GATED_QUERIES, experts=QWEN_EXPERTS, fixed=NEXT_FIXED,
        no_effect=("embedding_length_out", r"ple\.image_token_id"),
        reads={
            **NEXT_READS,
            "hc_count": (SIZE, "hyper_connection.count"), "hc_lowrank": (SIZE, "hyper_connection.low_rank"),
            "indexer_n_heads": (SIZE, "attention.indexer.head_count"),
            "indexer_head_dim": (SIZE, "attention.indexer.key_length"),
            "indexer_budget": (SIZE, "attention.indexer.top_k"),
        },
        adds={"partial_rotary_factor": 1.0, "norm_topk_prob": True, "output_gate_type": "sigmoid",
              "indexer_kv_heads": 1},
        more=_qwen4_exp, writes=_written_qwen4_exp,
    ),
}  # fmt: skip
