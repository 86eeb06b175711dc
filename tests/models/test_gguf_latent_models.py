"""GGUF files of families with latent attention, in both forms in which they keep its two halves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from test_gguf_models import assert_as_llama_cpp, write
from test_gguf_moe_models import known_names
from tiny_models import load, packed_logits, random_ids, reference, save

from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.checkpoints.gguf_model import write_gguf_model
from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.cpu_decoder import CpuDecoder
from landrace.models.declared import shapes_of
from landrace.models.decoder import Decoder
from landrace.models.families.gguf import config_from_gguf, gguf_sources
from landrace.models.ffn_spec import Moe
from landrace.models.mixer_spec import Mla
from landrace.models.spec import ModelSpec

gguf = pytest.importorskip("gguf")

EPS = 2.0**-8
YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 0.75,
    "mscale_all_dim": 0.75,
}  # fmt: skip
GROUPS = {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3}
INDEX = {"index_head_dim": 64}
"""llama.cpp rotates an indexer's rows by Hadamard matrices of 64."""
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "deepseek_v2": ("deepseek2", "deepseek_v2", {}),
    "deepseek_v2, lite, yarn": ("deepseek2", "deepseek_v2", {"q_lora_rank": None, "rope_parameters": YARN}),
    "deepseek_v2, groups": ("deepseek2", "deepseek_v2", GROUPS),
    "deepseek_v3": ("deepseek2", "deepseek_v3", {"rope_parameters": YARN}),
    "deepseek_v32": ("deepseek32", "deepseek_v32", INDEX),
    "deepseek_v32, yarn": ("deepseek32", "deepseek_v32", {**INDEX, "rope_parameters": YARN}),
    "glm_moe_dsa": ("glm-dsa", "glm_moe_dsa", INDEX),
    "glm_moe_dsa, shared": ("glm-dsa", "glm_moe_dsa", {**INDEX, "indexer_types": ["full", "shared", "full", "shared"]}),
    "minicpm3": ("minicpm3", "minicpm3", {"scale_emb": 12, "dim_model_base": 256}),
}
LATENT = {"kv_lora_rank": 32, "qk_nope_head_dim": 32, "v_head_dim": 16}
"""Whole blocks of 32."""


def model_of(case: str, shared: Path, **more: Any) -> Any:
    _, kind, changes = CASES[case]
    entry = json.loads((shared / "families" / "tiny_configs.json").read_text())[kind]
    return reference(kind, {**entry["kwargs"], "rms_norm_eps": EPS, **LATENT, **changes, **more})


def metadata(architecture: str, spec: ModelSpec, *, old: bool = False, **changes: Any) -> dict[str, Any]:
    """What llama.cpp's converter writes for the model, or wrote before it kept the halves apart."""
    attention, experts = spec.layers[0].mixer, spec.layers[-1].ffn
    assert isinstance(attention, Mla) and attention.rope is not None
    key = attention.nope_dim + attention.rope_dim
    own: dict[str, Any] = {
        "context_length": spec.max_length,
        "embedding_length": spec.d_model,
        "feed_forward_length": 96,
        "block_count": len(spec.layers),
        "attention.head_count": attention.n_heads,
        "attention.layer_norm_rms_epsilon": spec.norm_eps,
        "attention.kv_lora_rank": attention.kv_rank,
        "attention.q_lora_rank": attention.q_rank,
        "rope.dimension_count": attention.rope_dim,
        "rope.freq_base": attention.rope.theta,
        "vocab_size": spec.vocab_size,
    }
    if old or architecture == "minicpm3":
        own |= {"attention.head_count_kv": attention.n_heads, "attention.key_length": key}
        own |= {"attention.value_length": attention.v_dim} if architecture != "minicpm3" else {}
    else:
        own |= {
            "attention.head_count_kv": 1,
            "attention.key_length": attention.kv_rank + attention.rope_dim,
            "attention.value_length": attention.kv_rank,
            "attention.key_length_mla": key,
            "attention.value_length_mla": attention.v_dim,
        }
    if attention.selection is not None:
        own |= {"attention.indexer.head_count": attention.selection.n_heads,
                "attention.indexer.key_length": attention.selection.head_dim,
                "attention.indexer.top_k": attention.selection.top_k}  # fmt: skip
        indexers = [layer.mixer.indexer is not None for layer in spec.layers if isinstance(layer.mixer, Mla)]
        own |= {} if all(indexers) else {"attention.indexer.types": indexers}
    if attention.rope.kind == "yarn":
        own |= {"rope.scaling.type": "yarn", "rope.scaling.factor": attention.rope.factor,
                "rope.scaling.original_context_length": attention.rope.original_length,
                "rope.scaling.yarn_log_multiplier": 0.075, "context_length": 256}  # fmt: skip
    if isinstance(experts, Moe):
        router = experts.router
        own |= {
            "expert_count": experts.n_experts, "expert_used_count": router.top_k,
            "expert_feed_forward_length": experts.d_hidden, "expert_shared_count": 1, "leading_dense_block_count": 1,
            "expert_weights_scale": router.scale, "expert_weights_norm": router.renorm,
            "expert_gating_func": 1 if router.score == "softmax" else 2,
        }  # fmt: skip
        own |= {"expert_group_count": router.n_groups, "expert_group_used_count": router.top_groups}
    own |= changes
    found = {"general.architecture": architecture, "tokenizer.ggml.model": "no_vocab"}
    return found | {f"{architecture}.{key}": value for key, value in own.items() if value is not None}


def laid_out(architecture: str, decoder: Decoder, *, old: bool = False) -> dict[str, np.ndarray]:
    """The decoder's weights as a file of the architecture keeps them."""
    spec = decoder.spec
    old = old or architecture == "minicpm3"
    attention = spec.layers[0].mixer
    assert isinstance(attention, Mla)
    sources = gguf_sources(spec, architecture, ["blk.0.attn_kv_b.weight"] if old else [])
    rank, nope, v = attention.kv_rank, attention.nope_dim, attention.v_dim
    forms = {"attn_k_b": (attention.n_heads, rank, nope), "attn_v_b": (attention.n_heads, v, rank)}
    forms["attn_kv_b"] = (attention.n_heads * (nope + v), rank)  # type: ignore[assignment]
    stored = {}
    for name, shape in shapes_of(spec).items():
        tensor = sources[name].tensor
        stored[tensor] = torch.zeros(forms.get(tensor.split(".")[-2], shape))
    for name, tensor in decoder.named_tensors():
        sources[name].put(stored, tensor)
    return {name: tensor.numpy() for name, tensor in stored.items()}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_file_is_the_model_it_was_made_of(case: str, old: bool, shared: Path, tmp_path: Path) -> None:
    architecture = CASES[case][0]
    model, decoder = load(*save(model_of(case, shared), tmp_path / "hub"))
    tensors = laid_out(architecture, decoder, old=old)
    # The gguf package does not list deepseek32, whose tensors are glm-dsa's.
    known = known_names("glm-dsa" if architecture == "deepseek32" else architecture)
    assert [name for name in tensors if not any(one.fullmatch(name) for one in known)] == []
    write(tmp_path / "tiny.gguf", metadata(architecture, model.spec, old=old), tensors)
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    assert replace(checkpoint.spec, length_limit=None) == replace(model.spec, length_limit=None)
    theirs, ours = dict(decoder.named_tensors()), dict(checkpoint.tensors())
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    again = open_checkpoint(write_gguf_model(tmp_path / "again", checkpoint, ours))
    assert all(torch.equal(tensor, ours[name]) for name, tensor in again.tensors())
    assert {name for one in checkpoint.hub_sources.values() for name in one.tensors} == {
        name for one in model.sources.values() for name in one.tensors
    }


def test_the_transposed_half_is_what_the_hub_keeps(shared: Path, tmp_path: Path) -> None:
    """Against the definition of the two halves: kv_b is each head's keys and then its values."""
    config, stored = save(model_of("deepseek_v3", shared), tmp_path / "hub")
    _, decoder = load(config, stored)
    tensors = laid_out("deepseek2", decoder)
    kv_b = stored["model.layers.1.self_attn.kv_b_proj.weight"].view(4, 48, 32)
    assert np.array_equal(tensors["blk.1.attn_k_b.weight"], kv_b[:, :32].transpose(1, 2).numpy())
    assert np.array_equal(tensors["blk.1.attn_v_b.weight"], kv_b[:, 32:].numpy())


@pytest.mark.parametrize("old", [False, True])
def test_blocks_are_computed_on_as_they_are_stored(
    old: bool, extension: ModuleType, shared: Path, tmp_path: Path
) -> None:
    """Of quantised halves the logits are those of the values that their blocks stand for."""
    model, decoder = load(*save(model_of("deepseek_v3", shared), tmp_path / "hub"))
    kind = gguf.GGMLQuantizationType.Q8_0
    tensors = laid_out("deepseek2", decoder, old=old)
    halves = ("attn_k_b.weight", "attn_v_b.weight", "attn_kv_b.weight")
    packed = {name: gguf.quantize(tensor, kind) for name, tensor in tensors.items() if name.endswith(halves)}
    data = metadata("deepseek2", model.spec, old=old)
    write(tmp_path / "q8.gguf", data, {**tensors, **packed}, dict.fromkeys(packed, kind))
    checkpoint = open_checkpoint(tmp_path / "q8.gguf")
    stored = checkpoint.stored()
    assert stored["layers.0.self_attn.k_b_proj.weight"].block_type == "Q8_0"
    ours = CpuDecoder(checkpoint.spec, extension, threads=2).load(stored)
    held = {"k": "F32" if old else "Q8_0", "v": "Q8_0"}
    for part, block_type in held.items():
        matrices = ours._weights.stacks[f"layers.0.self_attn.{part}_b_proj.weight"]
        assert len(matrices) == 4 and {matrix.block_type for matrix in matrices} == {block_type}
    theirs = Decoder(checkpoint.spec).load(checkpoint.tensors())
    sequences = random_ids()
    expected = packed_logits(theirs, sequences)
    # Rows meet blocks in 8 bits, and a few of them other experts for that.
    difference = torch.cat(packed_logits(ours, sequences)) - torch.cat(expected)  # type: ignore[arg-type]
    assert difference.abs().median() < 0.02 * torch.cat(expected).std()


# llama.cpp chooses groups by their best two experts, as DeepSeek-V3 does and V2 does not; V3.2's mscale is 1 to it.
@pytest.mark.parametrize("case", [case for case in CASES if case not in ("deepseek_v2, groups", "deepseek_v32, yarn")])
def test_files_against_llama_cpp(case: str, shared: Path, tmp_path: Path) -> None:
    architecture = CASES[case][0]
    # llama.cpp takes the model's epsilon for the norms of the ranks as well, where transformers takes 1e-6, and knows a
    # V2-Lite by its layers.
    layers = {"num_hidden_layers": 27} if "lite" in case else {}
    model, decoder = load(*save(model_of(case, shared, rms_norm_eps=1e-6, **layers), tmp_path / "hub"))
    write(tmp_path / "tiny.gguf", metadata(architecture, model.spec), laid_out(architecture, decoder))
    assert_as_llama_cpp(tmp_path / "tiny.gguf", decoder)


BASE: Mapping[str, Any] = {
    "general.architecture": "deepseek2", "deepseek2.block_count": 2, "deepseek2.embedding_length": 8,
    "deepseek2.attention.head_count": 2, "deepseek2.attention.kv_lora_rank": 8, "deepseek2.rope.dimension_count": 4,
    "deepseek2.attention.key_length": 12, "deepseek2.attention.key_length_mla": 8,
    "deepseek2.attention.value_length": 8, "deepseek2.attention.value_length_mla": 4, "deepseek2.context_length": 64,
    "deepseek2.feed_forward_length": 16,
    "deepseek2.attention.layer_norm_rms_epsilon": 1e-6, "deepseek2.vocab_size": 16, "deepseek2.expert_count": 4,
    "deepseek2.expert_used_count": 2, "deepseek2.expert_feed_forward_length": 8, "deepseek2.expert_shared_count": 1,
}  # fmt: skip


def test_the_oldest_files_are_of_the_second_version() -> None:
    assert config_from_gguf(BASE, ())["model_type"] == "deepseek_v2"
    assert config_from_gguf({**BASE, "deepseek2.expert_gating_func": 2}, ())["model_type"] == "deepseek_v3"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"attention.key_length_mla": 4}, CheckpointError),
        ({"attention.kv_lora_rank": 0}, CheckpointError),
        ({"rope.dimension_count": None}, CheckpointError),
        ({"expert_gating_func": 7}, UnsupportedError),
        ({"expert_weights_norm": True}, UnsupportedError),
        ({"attention.temperature_scale": 0.1}, UnsupportedError),
    ],
)
def test_what_is_impossible_or_unknown_is_refused(changes: Mapping[str, Any], error: type[Exception]) -> None:
    data = {**BASE, **{f"deepseek2.{key}": value for key, value in changes.items()}}
    with pytest.raises(error):
        config_from_gguf({key: value for key, value in data.items() if value is not None}, ())
