"""GGUF files of families with compressed rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_gguf_models import llama_cpp_logits, write
from tiny_models import load, packed_logits, random_ids, reference, save, worst

from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.checkpoints.gguf_model import write_gguf_model
from landrace.errors import UnsupportedError
from landrace.models.decoder import Decoder
from landrace.models.families import FamilyModel
from landrace.models.families.gguf import gguf_sources
from landrace.quantize.compressed import Scheme, write_compressed
from landrace.quantize.forms import find_form
from landrace.quantize.gguf import gguf_model, write_quantised_gguf
from landrace.quantize.mixes import Mix

pytest.importorskip("gguf")

EPS, SPARSE = 2.0**-8, "compressed_sparse_attention"
KWARGS: dict[str, Any] = {
    "layer_types": ["sliding_attention", SPARSE, "heavily_compressed_attention", SPARSE],
    "compress_rates": {SPARSE: 4, "heavily_compressed_attention": 128},
    "hc_mult": 4, "hc_eps": EPS, "rms_norm_eps": EPS, "index_head_dim": 64, "index_topk": 9, "sliding_window": 16,
    "max_position_embeddings": 512, "swiglu_limit": 0.5,
}  # fmt: skip
"""llama.cpp knows these rates and four streams only, and rotates an indexer's rows by Hadamard matrices of 64."""
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 32, "beta_slow": 1}


def deepseek_v4(shared: Path, folder: Path, **changes: Any) -> tuple[FamilyModel, Decoder]:
    kwargs = json.loads((shared / "families" / "tiny_configs.json").read_text())["deepseek_v4"]["kwargs"]
    return load(*save(reference("deepseek_v4", {**kwargs, **KWARGS, **changes}), folder))


def metadata(**changes: Any) -> dict[str, Any]:
    own: dict[str, Any] = {
        "context_length": 512, "embedding_length": 64, "block_count": 4, "vocab_size": 128, "attention.head_count": 4,
        "attention.head_count_kv": 1, "attention.key_length": 32, "attention.value_length": 32,
        "attention.layer_norm_rms_epsilon": EPS, "attention.q_lora_rank": 24, "attention.output_lora_rank": 16,
        "attention.output_group_count": 2, "attention.sliding_window": 16, "attention.compress_ratios": [0, 4, 128, 4],
        "attention.compress_rope_freq_base": 160_000.0, "rope.freq_base": 10_000.0, "rope.dimension_count": 8,
        "attention.indexer.head_count": 32, "attention.indexer.key_length": 64, "attention.indexer.top_k": 9,
        "hyper_connection.count": 4, "hyper_connection.epsilon": EPS, "hyper_connection.sinkhorn_iterations": 3,
        "expert_count": 8, "expert_used_count": 2, "expert_shared_count": 1, "expert_feed_forward_length": 32,
        "expert_gating_func": 4, "expert_weights_scale": 1.5, "expert_weights_norm": True, "hash_layer_count": 1,
        "swiglu_clamp_exp": [0.5] * 4, "swiglu_clamp_shexp": [0.5] * 4, **changes,
    }  # fmt: skip
    return {
        "general.architecture": "deepseek4",
        "tokenizer.ggml.model": "no_vocab",
        **{f"deepseek4.{key}": value for key, value in own.items()},
    }


def laid_out(decoder: Decoder) -> dict[str, np.ndarray]:
    tensors, sources = dict(decoder.named_tensors()), gguf_sources(decoder.spec, "deepseek4")
    found = {sources[name].tensor: tensor for name, tensor in tensors.items()}
    return {name: (t.int() if t.dtype == torch.int64 else t).numpy() for name, t in found.items()}


def test_a_file_is_the_model_it_was_made_of(shared: Path, tmp_path: Path) -> None:
    model, decoder = deepseek_v4(shared, tmp_path / "hub")
    write(tmp_path / "tiny.gguf", metadata(), laid_out(decoder))
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    assert replace(checkpoint.spec, length_limit=None) == replace(model.spec, length_limit=None)
    theirs, ours = dict(decoder.named_tensors()), dict(checkpoint.tensors())
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name].to(ours[name])) for name in theirs)
    again = open_checkpoint(write_gguf_model(tmp_path / "again", checkpoint, ours))
    assert all(torch.equal(tensor, ours[name]) for name, tensor in again.tensors())
    assert open_checkpoint(tmp_path / "again" / "model.gguf").stored()["layers.0.mlp.router.table"].block_type == "I32"


@pytest.mark.parametrize("stretched", [False, True])
def test_files_against_llama_cpp(stretched: bool, shared: Path, tmp_path: Path) -> None:
    _, decoder = deepseek_v4(shared, tmp_path / "hub", **({"rope_parameters": YARN} if stretched else {}))
    scaling = {
        "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128,
    }  # fmt: skip
    write(tmp_path / "tiny.gguf", metadata(**(scaling if stretched else {})), laid_out(decoder))
    ids = random_ids((300,))
    theirs = llama_cpp_logits(tmp_path / "tiny.gguf", ids[0], n_ctx=512)
    opened = open_checkpoint(tmp_path / "tiny.gguf")
    ours = packed_logits(Decoder(opened.spec).load(opened.tensors()), ids)
    assert worst(ours, packed_logits(decoder, ids)) < 1e-5
    assert worst(ours, [theirs]) < 1e-4 * theirs.abs().max().item()


def test_layers_that_differ_are_refused(shared: Path, tmp_path: Path) -> None:
    _, decoder = deepseek_v4(shared, tmp_path / "hub")
    write(tmp_path / "tiny.gguf", metadata(swiglu_clamp_exp=[0.5, 0.5, 0.7, 0.5]), laid_out(decoder))
    with pytest.raises(UnsupportedError, match="swiglu_clamp_exp"):
        open_checkpoint(tmp_path / "tiny.gguf")


def test_rounded_files_keep_their_tables(shared: Path, tmp_path: Path) -> None:
    """Which experts tokens go to, in a GGUF file and in a folder."""
    _, decoder = deepseek_v4(shared, tmp_path / "hub")
    write(tmp_path / "tiny.gguf", metadata(), laid_out(decoder))
    whole = open_checkpoint(tmp_path / "tiny.gguf")
    _, mix = find_form("q8_0")
    _, scheme = find_form("fp8_dynamic")
    assert isinstance(mix, Mix) and isinstance(scheme, Scheme)
    write_quantised_gguf(tmp_path / "rounded.gguf", gguf_model(whole), whole.spec, mix, {})
    write_compressed(tmp_path / "rounded", open_checkpoint(tmp_path / "hub"), scheme, {})
    table = dict(decoder.named_tensors())["layers.0.mlp.router.table"]
    for path in (tmp_path / "rounded.gguf", tmp_path / "rounded"):
        stored = open_checkpoint(path).stored()
        assert torch.equal(stored["layers.0.mlp.router.table"].floats().long(), table)
        near = Decoder(whole.spec).load((name, tensor.floats()) for name, tensor in stored.items())
        assert torch.isfinite(packed_logits(near, random_ids())[0]).all()
