"""GGUF files of families with several residual streams."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_gguf_latent_models import EPS, LATENT, laid_out, metadata
from test_gguf_models import assert_as_llama_cpp, write
from tiny_models import load, reference, save

from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.checkpoints.gguf_model import write_gguf_model
from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.decoder import Decoder
from landrace.models.families import FamilyModel
from landrace.models.families.gguf import config_from_gguf
from landrace.models.ffn_spec import Moe
from landrace.models.mixer_spec import Mla
from landrace.models.spec import Hyper, ModelSpec


def hy_v4(shared: Path, folder: Path, *, chosen: bool, **changes: Any) -> tuple[FamilyModel, Decoder]:
    """Whose rows attend to the positions that an indexer chooses, or to all."""
    kwargs = json.loads((shared / "families" / "tiny_configs.json").read_text())["hy_v4"]["kwargs"]
    model = reference(
        "hy_v4", {**kwargs, "rms_norm_eps": EPS, **LATENT, "index_topk": 8 if chosen else 64, "hc_eps": EPS, **changes}
    )
    config, tensors = save(model, folder)
    return load(config if chosen else {**config, "layer_types": ["full_attention"] * 4}, tensors)


def hy_v4_metadata(spec: ModelSpec, **changes: Any) -> dict[str, Any]:
    experts, streams = spec.layers[-1].ffn, spec.streams
    assert isinstance(experts, Moe) and isinstance(streams, Hyper)
    return metadata(
        "hy_v4",
        spec,
        **{
            "swiglu_clamp_exp": [experts.activation.limit] * len(spec.layers),
            "hyper_connection.count": streams.count,
            "hyper_connection.epsilon": streams.form.eps,
            "hyper_connection.magnitude": streams.form.post_factor,
            **_of_indexers(spec),
            **changes,
        },
    )


def _of_indexers(spec: ModelSpec) -> dict[str, Any]:
    found = [layer.mixer.selection for layer in spec.layers if isinstance(layer.mixer, Mla) and layer.mixer.selection]
    if not found:
        return {}
    return {
        "attention.indexer.head_count": found[0].n_heads,
        "attention.indexer.key_length": found[0].head_dim,
        "attention.indexer.top_k": found[0].top_k,
        "attention.indexer.types": [one.own for one in found],
    }


@pytest.mark.parametrize("chosen", [False, True])
def test_a_file_is_the_model_it_was_made_of(chosen: bool, shared: Path, tmp_path: Path) -> None:
    model, decoder = hy_v4(shared, tmp_path / "hub", chosen=chosen)
    write(tmp_path / "tiny.gguf", hy_v4_metadata(model.spec), laid_out("hy_v4", decoder))
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    assert replace(checkpoint.spec, length_limit=None) == replace(model.spec, length_limit=None)
    theirs, ours = dict(decoder.named_tensors()), dict(checkpoint.tensors())
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    again = open_checkpoint(write_gguf_model(tmp_path / "again", checkpoint, ours))
    assert all(torch.equal(tensor, ours[name]) for name, tensor in again.tensors())


@pytest.mark.parametrize("chosen", [False, True])
def test_files_against_llama_cpp(chosen: bool, shared: Path, tmp_path: Path) -> None:
    # llama.cpp takes the model's epsilon for the norms of the ranks as well, where transformers takes 1e-6.
    model, decoder = hy_v4(shared, tmp_path / "hub", chosen=chosen, rms_norm_eps=1e-6)
    write(tmp_path / "tiny.gguf", hy_v4_metadata(model.spec), laid_out("hy_v4", decoder))
    assert_as_llama_cpp(tmp_path / "tiny.gguf", decoder)


BASE: Mapping[str, Any] = {
    "general.architecture": "hy_v4", "hy_v4.block_count": 2, "hy_v4.embedding_length": 8,
    "hy_v4.attention.head_count": 2, "hy_v4.attention.kv_lora_rank": 8, "hy_v4.rope.dimension_count": 4,
    "hy_v4.attention.q_lora_rank": 8, "hy_v4.attention.key_length": 12, "hy_v4.attention.key_length_mla": 8,
    "hy_v4.attention.value_length": 8, "hy_v4.attention.value_length_mla": 4, "hy_v4.context_length": 64,
    "hy_v4.feed_forward_length": 16, "hy_v4.attention.layer_norm_rms_epsilon": 1e-6, "hy_v4.vocab_size": 16,
    "hy_v4.expert_count": 4, "hy_v4.expert_used_count": 2, "hy_v4.expert_feed_forward_length": 8,
    "hy_v4.expert_shared_count": 1, "hy_v4.expert_gating_func": 2, "hy_v4.expert_weights_norm": True,
    "hy_v4.leading_dense_block_count": 1, "hy_v4.swiglu_clamp_exp": [10.0, 10.0], "hy_v4.hyper_connection.count": 4,
    "hy_v4.hyper_connection.epsilon": 1e-6, "hy_v4.hyper_connection.magnitude": 2.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"swiglu_clamp_exp": [10.0, 5.0]}, UnsupportedError),
        ({"swiglu_clamp_exp": [10.0]}, CheckpointError),
        ({"swiglu_clamp_exp": None}, UnsupportedError),
        ({"expert_gating_func": 1}, UnsupportedError),
        ({"hyper_connection.sinkhorn_iterations": 20}, UnsupportedError),
    ],
)
def test_what_is_impossible_or_unknown_is_refused(changes: Mapping[str, Any], error: type[Exception]) -> None:
    assert config_from_gguf(BASE, ())["hc_mult"] == 4
    data = {**BASE, **{f"hy_v4.{key}": value for key, value in changes.items()}}
    with pytest.raises(error):
        config_from_gguf({key: value for key, value in data.items() if value is not None}, ())
