"""GGUF files of GLM-5.3 and Qwen4-Exp: tiny models of transformers, with what llama.cpp's converter says of them,
against transformers and llama.cpp."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from cpu_models import on_cpu
from test_gguf_models import assert_as_llama_cpp, assert_goes_back, write
from tiny_models import packed_logits, random_ids, reference, reference_logits, worst

from landrace.checkpoints.checkpoint import Checkpoint, open_checkpoint
from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.decoder import Decoder
from landrace.models.families.gguf import gguf_sources
from landrace.models.families.weights import total_rows
from landrace.models.mixer_spec import Gdn, Kda
from landrace.models.selection_spec import PoolSelection
from landrace.models.spec import ModelSpec

pytest.importorskip("gguf")

EPS = 2.0**-20
"""llama.cpp takes the model's for all norms, and for lengths of keys in Qwen4-Exp, where the models have 1e-6."""
GLM: dict[str, Any] = {"linear_num_heads": 4, "hc_mult": 4, "hc_eps": EPS, "rms_norm_eps": EPS}
"""llama.cpp has as many heads of delta attention as of attention, and four streams."""
PLE = {
    "ple_layer_ids": [2], "ple_embed_dim": 64, "ngram_size": 3, "heads_per_ngram": 2, "ngram_vocab_size_base": 50,
    "make_ngram_vocab_size_divisible_by": 8, "split_ngram_parts": 1,
}  # fmt: skip
QWEN: dict[str, Any] = {
    "rms_norm_eps": EPS, "output_gate_type": "sigmoid", "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip
"""llama.cpp has keys and values of one width, and n-grams as wide as the model."""
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "glm5-next": ("glm5-next", "glm5_next", GLM),
    "glm5-next, all positions": ("glm5-next", "glm5_next", {**GLM, "index_topk": 64}),
    "glm5-next, no floor": ("glm5-next", "glm5_next", {**GLM, "linear_lower_bound": None}),
    "qwen4exp": ("qwen4exp", "qwen4_exp_text", QWEN),
    "qwen4exp, n-grams": ("qwen4exp", "qwen4_exp_text", {**QWEN, **PLE}),
    "qwen4exp, all positions": ("qwen4exp", "qwen4_exp_text", {**QWEN, "indexer_budget": 64}),
}


def made(case: str, shared: Path, folder: Path) -> tuple[Any, Checkpoint, Decoder]:
    _, kind, changes = CASES[case]
    kwargs = json.loads((shared / "families" / "tiny_configs.json").read_text())[kind]["kwargs"]
    text = kwargs.get("text_config")
    kwargs = {**kwargs, **changes} if text is None else {**kwargs, "text_config": {**text, **changes}}
    model = reference(kind, kwargs, "Glm5NextForConditionalGeneration" if kind == "glm5_next" else None)
    model.save_pretrained(folder)
    checkpoint = open_checkpoint(folder)
    return model, checkpoint, Decoder(checkpoint.spec).load(checkpoint.tensors())


def laid_out(architecture: str, decoder: Decoder) -> dict[str, np.ndarray]:
    """The decoder's weights as a file of the architecture keeps them."""
    sources = gguf_sources(decoder.spec, architecture)
    rows, stored = total_rows(sources.values()), dict[str, torch.Tensor]()
    for name, tensor in decoder.named_tensors():
        source = sources[name]
        if source.tensor not in stored:
            shape = source.stored_shape(tuple(tensor.shape), rows.get(source.tensor))
            stored[source.tensor] = torch.zeros(shape)
        source.put(stored, tensor)
    flat = ("ssm_conv1d.weight", "ple_conv1d.weight")
    return {name: (x.squeeze(1) if name.endswith(flat) else x).numpy() for name, x in stored.items()}


def metadata(architecture: str, spec: ModelSpec, **changes: Any) -> dict[str, Any]:
    """What the converter writes of these models."""
    own: dict[str, Any] = {
        "context_length": 256, "embedding_length": 64, "block_count": 4, "vocab_size": 128, "attention.head_count": 4,
        "attention.layer_norm_rms_epsilon": EPS,
    }  # fmt: skip
    own |= _of_glm(spec) if architecture == "glm5-next" else _of_qwen(spec)
    own |= changes
    found = {"general.architecture": architecture, "tokenizer.ggml.model": "no_vocab"}
    return found | {f"{architecture}.{key}": value for key, value in own.items() if value is not None}


def _of_glm(spec: ModelSpec) -> dict[str, Any]:
    delta, latent = spec.layers[0].mixer, spec.layers[3].mixer
    assert isinstance(delta, Kda) and latent.selection is not None  # type: ignore[union-attr]
    return {
        "attention.head_count_kv": [0, 0, 0, 1], "attention.layer_norm_epsilon": 1e-6, "feed_forward_length": 96,
        "attention.q_lora_rank": 24, "attention.kv_lora_rank": 16, "attention.key_length": 16,
        "attention.value_length": 16, "attention.key_length_mla": 16, "attention.value_length_mla": 12,
        "rope.dimension_count": 0, "ssm.conv_kernel": 4, "kda.head_dim": 16, "kda.gate_lower_bound": delta.decay_floor,
        "attention.indexer.head_count": 32, "attention.indexer.key_length": 16, "attention.indexer.kpool": 4,
        "attention.indexer.top_k": latent.selection.top_k,  # type: ignore[union-attr]
        "attention.indexer.kpool_select_tail": True, "attention.indexer.types": [True] * 4,
        "hyper_connection.count": 4, "hyper_connection.sinkhorn_iterations": 3, "hyper_connection.epsilon": EPS,
        "leading_dense_block_count": 1, "expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 32,
        "expert_shared_count": 1, "expert_weights_scale": 2.5, "expert_weights_norm": True,
        "swiglu_clamp_exp": [0.5] * 4, "swiglu_clamp_shexp": [0.5] * 4,
    }  # fmt: skip


def _of_qwen(spec: ModelSpec) -> dict[str, Any]:
    delta, attention, ngrams = spec.layers[0].mixer, spec.layers[3].mixer, spec.layers[1].ngrams
    assert isinstance(delta, Gdn)
    selection = attention.selection  # type: ignore[union-attr]
    own: dict[str, Any] = {
        "attention.head_count_kv": 2, "attention.key_length": 32, "attention.value_length": 32,
        "rope.dimension_count": 8, "rope.dimension_sections": [2, 1, 1, 0], "rope.freq_base": 1e7,
        "ssm.conv_kernel": 4, "ssm.state_size": 16, "ssm.group_count": 2, "ssm.time_step_rank": 4, "ssm.inner_size": 64,
        "full_attention_interval": 4, "expert_count": 6, "expert_used_count": 2, "expert_feed_forward_length": 32,
        "expert_shared_feed_forward_length": 48, "hyper_connection.count": 2, "hyper_connection.low_rank": 8,
        "embedding_length_out": 128, "attention.indexer.head_count": 8, "attention.indexer.key_length": 16,
        "attention.indexer.top_k": selection.pool * selection.top_k, "attention.compress_ratios": [0, 0, 0, 4],
    }  # fmt: skip
    if ngrams is None:
        return own
    sizes = np.array(ngrams.form.sizes)
    return own | {
        "ple.layers": [1], "ple.ngram_size": 3, "ple.heads_per_ngram": 2, "ple.conv_kernel": 4, "ple.eos_token_id": 2,
        "ple.image_token_id": 5, "ple.layer_multipliers": np.array(ngrams.form.multipliers),
        "ple.head_vocab_sizes": sizes, "ple.head_offsets": sizes.cumsum() - sizes,
        "embedding_length_per_layer_input": 16,
    }  # fmt: skip


def without_padding(spec: ModelSpec) -> ModelSpec:
    """With tables of n-grams that end with their last row, which is all that a file says."""
    layers = []
    for layer in spec.layers:
        ngrams = layer.ngrams and replace(layer.ngrams, rows=sum(layer.ngrams.form.sizes))
        layers.append(replace(layer, ngrams=ngrams))
    return replace(spec, layers=tuple(layers), length_limit=None)


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_the_model_it_was_made_of(case: str, shared: Path, extension: ModuleType, tmp_path: Path) -> None:
    model, folder, decoder = made(case, shared, tmp_path / "hub")
    architecture = CASES[case][0]
    write(tmp_path / "tiny.gguf", metadata(architecture, folder.spec), laid_out(architecture, decoder))
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    assert without_padding(checkpoint.spec.in_rounds()) == without_padding(folder.spec.in_rounds())
    ours = Decoder(checkpoint.spec).load(checkpoint.tensors())
    sequences = random_ids()
    theirs = reference_logits(model, sequences)
    assert worst(packed_logits(decoder, sequences), theirs) < 1e-4
    for one in (ours, on_cpu(extension, ours, "float32")):
        assert worst(packed_logits(one, sequences), theirs) < 1e-4  # type: ignore[arg-type]
    assert_goes_back(tmp_path / "tiny.gguf", tmp_path / "again")
    # What a file says is text alone.
    written = {name.replace("language_model.", "") for one in folder.hub_sources.values() for name in one.tensors}
    assert {name for one in checkpoint.hub_sources.values() for name in one.tensors} == written


@pytest.mark.parametrize("case", CASES)
def test_files_against_llama_cpp(case: str, shared: Path, tmp_path: Path) -> None:
    _, folder, decoder = made(case, shared, tmp_path / "hub")
    architecture = CASES[case][0]
    write(tmp_path / "tiny.gguf", metadata(architecture, folder.spec), laid_out(architecture, decoder))
    assert_as_llama_cpp(tmp_path / "tiny.gguf", decoder, rows=rows_that_agree(folder.spec))


def rows_that_agree(spec: ModelSpec) -> list[int]:
    """Where llama.cpp's Qwen4-Exp sees what the model does: what a short tail leaves free of its budget, it fills with
    positions of the pool that comes next."""
    selection = spec.layers[3].mixer.selection  # type: ignore[union-attr]
    if not isinstance(selection, PoolSelection):
        return list(range(40))
    return [row for row in range(40) if row < selection.onset or (row + 2) % selection.pool == 0]


def test_rows_behind_a_table_are_nobody_s(shared: Path, tmp_path: Path) -> None:
    """The converter pads it."""
    case, architecture = "qwen4exp, n-grams", "qwen4exp"
    _, folder, decoder = made(case, shared, tmp_path / "hub")
    tensors = laid_out(architecture, decoder)
    table = tensors["per_layer_token_embd.weight"]
    tensors["per_layer_token_embd.weight"] = np.pad(table, ((0, 100), (0, 0)), constant_values=np.nan)
    write(tmp_path / "tiny.gguf", metadata(architecture, folder.spec), tensors)
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    ours = Decoder(checkpoint.spec).load(checkpoint.tensors())
    assert worst(packed_logits(ours, random_ids()), packed_logits(decoder, random_ids())) < 1e-5
    assert_as_llama_cpp(tmp_path / "tiny.gguf", decoder, rows=rows_that_agree(folder.spec))
    tensors["per_layer_token_embd.weight"] = table[:100]
    write(tmp_path / "short.gguf", metadata(architecture, folder.spec), tensors)
    with pytest.raises(CheckpointError, match="per_layer_token_embd"):
        open_checkpoint(tmp_path / "short.gguf")


def test_which_layers_attend(shared: Path, tmp_path: Path) -> None:
    """A list says it, or an interval does."""
    _, folder, decoder = made("qwen4exp", shared, tmp_path / "hub")
    changes = {"full_attention_interval": 2, "attention.recurrent_layers": [True, True, True, False]}
    write(tmp_path / "a.gguf", metadata("qwen4exp", folder.spec, **changes), laid_out("qwen4exp", decoder))
    ours, theirs = open_checkpoint(tmp_path / "a.gguf").spec, folder.spec.in_rounds()
    assert without_padding(ours) == without_padding(theirs)


REFUSED: dict[str, tuple[str, dict[str, Any], type[Exception] | tuple[type[Exception], ...]]] = {
    "heads that turn": ("glm5-next", {"rope.dimension_count": 8}, UnsupportedError),
    "tails that are not chosen": ("glm5-next", {"attention.indexer.kpool_select_tail": False}, UnsupportedError),
    "another epsilon": ("glm5-next", {"attention.layer_norm_epsilon": 1e-5}, UnsupportedError),
    "limits that differ": ("glm5-next", {"swiglu_clamp_shexp": [0.5, 0.5, 0.5, 0.7]}, UnsupportedError),
    "one number of heads": ("glm5-next", {"attention.head_count_kv": 4}, CheckpointError),
    "pools of one": ("glm5-next", {"attention.indexer.kpool": 1}, CheckpointError),
    "softmax": ("glm5-next", {"expert_gating_func": 1}, UnsupportedError),
    "no pools": ("qwen4exp, n-grams", {"attention.compress_ratios": [0, 0, 0, 0]}, UnsupportedError),
    "pools elsewhere": ("qwen4exp, n-grams", {"attention.compress_ratios": [0, 0, 4, 0]}, UnsupportedError),
    "no list of pools": ("qwen4exp, n-grams", {"attention.compress_ratios": None}, (CheckpointError, UnsupportedError)),
    "n-grams in two layers": ("qwen4exp, n-grams", {"ple.layers": [0, 1]}, UnsupportedError),
    "n-grams where there is no state": ("qwen4exp, n-grams", {"ple.layers": [3]}, CheckpointError),
    "too few multipliers": ("qwen4exp, n-grams", {"ple.layer_multipliers": [5]}, CheckpointError),
    "multipliers of nothing": ("qwen4exp, n-grams", {"ple.layer_multipliers": [5, 0, 7]}, CheckpointError),
    "tables that overlap": ("qwen4exp, n-grams", {"ple.head_offsets": [0, 0, 0, 0]}, UnsupportedError),
    "tables without sizes": ("qwen4exp, n-grams", {"ple.head_vocab_sizes": None}, CheckpointError),
    "more tables than sizes": ("qwen4exp, n-grams", {"ple.heads_per_ngram": 3}, CheckpointError),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_impossible_or_unknown_is_refused(case: str, shared: Path, tmp_path: Path) -> None:
    model, changes, error = REFUSED[case]
    _, folder, decoder = made(model, shared, tmp_path / "hub")
    architecture = CASES[model][0]
    write(tmp_path / "a.gguf", metadata(architecture, folder.spec, **changes), laid_out(architecture, decoder))
    with pytest.raises(error):
        open_checkpoint(tmp_path / "a.gguf")
