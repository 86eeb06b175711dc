"""MiniCPM 1, 2, 4 and 4.1: Llama with factors on embedding, residual branches and logits, and sparse attention in some.

transformers has no class of them: the facts are those of the modelling code published with the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from landrace.errors import UnsupportedError
from landrace.kernels.key_means import COARSE, MEAN_OF, WINDOW
from landrace.models.families.config import MAX_POSITIONS, Config
from landrace.models.families.dense import n_layers, read_attention, read_decoder, read_mlp
from landrace.models.families.family import Family
from landrace.models.families.llama import SHAPE
from landrace.models.mixer_spec import Gqa
from landrace.models.selection_spec import MeanSelection
from landrace.models.spec import ModelSpec, Plain

MINICPM = {**SHAPE, "tie_word_embeddings": True, "scale_emb": 1, "scale_depth": 1, "dim_model_base": 1}
SPARSE = {"init_blocks": 1, "block_size": 64, "window_size": 2048, "topk": 64, "dense_len": 8192}


def read_minicpm(config: Config) -> ModelSpec:
    attention = read_attention(config, bias=config.flag("attention_bias"))
    sparse = config.section("sparse_config")
    return read_decoder(
        config,
        attention if sparse is None else replace(attention, selection=_read_selection(sparse, attention)),
        read_mlp(config),
        embed_scale=config.number("scale_emb"),
        residual=Plain(config.number("scale_depth") / n_layers(config) ** 0.5),
        logit_divisor=config.size("hidden_size") / config.number("dim_model_base"),
    )


def _read_selection(sparse: Config, attention: Gqa) -> MeanSelection:
    sparse = sparse.replaced({key: value for key, value in SPARSE.items() if key not in sparse})
    block = sparse.size("block_size", MAX_POSITIONS)
    # -1: always sparse, so from where there is a coarse window.
    dense = COARSE * MEAN_OF if sparse.get("dense_len") == -1 else sparse.size("dense_len", MAX_POSITIONS)
    topk, window = sparse.size("topk", MAX_POSITIONS), sparse.size("window_size", MAX_POSITIONS)
    first = sparse.count("init_blocks")
    sparse.finish(fixed={"kernel_size": WINDOW * MEAN_OF, "kernel_stride": MEAN_OF, "use_nope": False})
    if block % MEAN_OF or attention.head_dim % MEAN_OF:
        raise UnsupportedError(
            f"Sparse attention in blocks or heads that {MEAN_OF} does not divide is not implemented."
        )
    if topk <= first:
        raise sparse.wrong("topk", topk, f"more than init_blocks, {first}")
    if dense < COARSE * MEAN_OF:
        raise sparse.wrong("dense_len", dense, f"at least {COARSE * MEAN_OF}")
    # The blocks of the window, and the one that it begins in, are among those that are chosen.
    return MeanSelection(block, topk + window // block, first, window // block + 1, dense)


FAMILIES: Mapping[str, Family] = {"minicpm": Family(read_minicpm, MINICPM, no_effect=("mup_denominator",))}
