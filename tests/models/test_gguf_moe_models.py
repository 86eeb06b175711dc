"""GGUF files of families with experts, written with the gguf package from tiny models of transformers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_gguf_models import assert_as_llama_cpp, write
from tiny_models import load, random_decoder, reference, save

from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.checkpoints.gguf_model import write_gguf_model
from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.declared import shapes_of
from landrace.models.decoder import Decoder
from landrace.models.families import read_config
from landrace.models.families.gguf import config_from_gguf, gguf_sources
from landrace.models.families.gguf_architectures import ARCHITECTURES
from landrace.models.families.gguf_delta import delta_facts, lightning_facts
from landrace.models.ffn_spec import Moe
from landrace.models.spec import ModelSpec

gguf = pytest.importorskip("gguf")

EPS = 2.0**-8
"""A number that a file's float32 keeps as it is."""
STEP_ROPE = {
    "rope_type": "llama3", "rope_theta": 5e6, "partial_rotary_factor": 0.5, "factor": 2.0, "low_freq_factor": 1.0,
    "high_freq_factor": 32.0, "original_max_position_embeddings": 131072,
}  # fmt: skip
SHARED = {
    "qwen2moe": ("qwen2_moe", {"mlp_only_layers": []}),
    "qwen3moe": ("qwen3_moe", {"mlp_only_layers": []}),
    "qwen3vlmoe": ("qwen3_moe", {"mlp_only_layers": []}),
    "glm4moe": ("glm4_moe", {}),
    "ernie4_5-moe": ("ernie4_5_moe", {}),
    "hunyuan-moe": ("hunyuan_v1_moe", {}),
    "hy_v3": ("hy_v3", {"router_scaling_factor": 2.5}),
    "minimax-m2": ("minimax_m2", {}),
    "minimax-m3": ("minimax_m3_vl_text", {"swiglu_limit": 7.0, "shared_intermediate_size": 32}),
    "gpt-oss": ("gpt_oss", {"swiglu_limit": 7.0}),
    "llama4": ("llama4_text", {"attention_chunk_size": 8192, "floor_scale": 8192, "interleave_moe_layer_step": 2}),
    "step35": ("step3p7", {"rope_parameters": {"full_attention": STEP_ROPE, "sliding_attention": {
        "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}}}),
}  # fmt: skip


GUESSING = ("glm4moe", "hy_v3")
"""Whose files count a layer that guesses further tokens."""


def model_of(architecture: str, shared: Path) -> Any:
    kind, changes = SHARED[architecture]
    entry = json.loads((shared / "families" / "tiny_configs.json").read_text())[kind]
    kwargs, changes = entry["kwargs"], {"rms_norm_eps": EPS, **changes}
    if "text_config" in kwargs:
        return reference(kind, {**kwargs, "text_config": {**kwargs["text_config"], **changes}}, entry["model_class"])
    return reference(kind, {**kwargs, **changes})


def metadata(architecture: str, spec: ModelSpec, **changes: Any) -> dict[str, Any]:
    """What llama.cpp's converter writes for the model; `changes`: keys below the architecture's, None to leave out."""
    attention, experts = spec.layers[0].mixer, spec.layers[-1].ffn
    assert attention.rope is not None and isinstance(experts, Moe)
    dense = [layer.ffn.d_hidden for layer in spec.layers if not isinstance(layer.ffn, Moe)]
    own: dict[str, Any] = {
        "context_length": spec.max_length,
        "embedding_length": spec.d_model,
        "feed_forward_length": dense[0] if dense else experts.d_hidden,
        "block_count": len(spec.layers),
        "attention.head_count": attention.n_heads,
        "attention.head_count_kv": attention.n_kv_heads,
        "attention.key_length": attention.head_dim,
        "attention.value_length": attention.head_dim,
        "attention.layer_norm_rms_epsilon": spec.norm_eps,
        "rope.dimension_count": attention.rope.rotary_dim,
        "rope.freq_base": attention.rope.theta,
        "vocab_size": spec.vocab_size,
        "expert_count": experts.n_experts,
        "expert_used_count": experts.router.top_k,
        "expert_feed_forward_length": experts.d_hidden,
    }
    sigmoid = {"expert_gating_func": 2}
    shared = experts.shared.d_hidden if experts.shared else 0
    own |= {
        "qwen2moe": {"expert_shared_feed_forward_length": shared},
        "qwen3vlmoe": {"rope.dimension_sections": [4, 4, 4, 0], "n_deepstack_layers": 3},
        "glm4moe": {
            **sigmoid, "expert_shared_count": 1, "leading_dense_block_count": 1, "expert_weights_norm": True,
            "expert_weights_scale": experts.router.scale, "nextn_predict_layers": 1,
            "block_count": len(spec.layers) + 1,
        },
        "ernie4_5-moe": {
            "interleave_moe_layer_step": 1, "leading_dense_block_count": 1, "expert_shared_count": 2,
            "expert_shared_feed_forward_length": shared,
        },
        "hunyuan-moe": {
            "expert_shared_count": 1, "expert_shared_feed_forward_length": shared, "rope.scaling.type": "none",
            "rope.scaling.factor": 1.0,
        },
        "hy_v3": {
            **sigmoid, "expert_shared_feed_forward_length": shared, "expert_weights_norm": True,
            "expert_weights_scale": experts.router.scale, "nextn_predict_layers": 1,
            "block_count": len(spec.layers) + 1,
        },
        "minimax-m2": sigmoid,
        "minimax-m3": {
            **sigmoid, "expert_shared_count": 1, "leading_dense_block_count": 1, "expert_weights_norm": True,
            "expert_weights_scale": experts.router.scale, "attention.indexer.head_count": 2,
            "attention.indexer.key_length": 16, "attention.indexer.top_k": 2, "attention.indexer.block_size": 4,
            "attention.indexer.local_blocks": 1,
        },
        "gpt-oss": {
            "attention.sliding_window": 8, "rope.scaling.type": "yarn", "rope.scaling.factor": 32.0,
            "rope.scaling.original_context_length": 64, "context_length": 256,
        },
        "llama4": {"interleave_moe_layer_step": 2},
        "step35": {
            **sigmoid, "attention.head_count": [4, 6, 6, 6], "attention.head_count_kv": [2] * 4,
            "attention.sliding_window": 8, "attention.sliding_window_pattern": [False, True, True, True],
            "rope.dimension_count": 16, "rope.freq_base_swa": 1e4, "expert_shared_feed_forward_length": shared,
            "expert_weights_scale": experts.router.scale, "expert_weights_norm": True, "moe_every_n_layers": 1,
            "leading_dense_block_count": 1, "swiglu_clamp_exp": [0.0, 0.0, 0.0, 1.0],
            "swiglu_clamp_shexp": [0.0, 0.0, 0.0, 1.0],
        },
    }.get(architecture, {})  # fmt: skip
    own |= changes
    found = {"general.architecture": architecture, "tokenizer.ggml.model": "no_vocab"}
    return found | {f"{architecture}.{key}": value for key, value in own.items() if value is not None}


def known_names(architecture: str) -> list[re.Pattern[str]]:
    """The tensors that the gguf package knows for the architecture."""
    arch = next((arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture), None)
    if arch is None:
        return [re.compile(".*")]  # The package is older than the architecture.
    names = [gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[arch]]
    return [re.compile(re.escape(name).replace(r"\{bid\}", r"\d+") + r"\.(weight|bias)") for name in names]


def laid_out(architecture: str, decoder: Decoder, spec: ModelSpec) -> dict[str, np.ndarray]:
    """The decoder's weights as a file of the architecture keeps them."""
    sources = gguf_sources(spec, architecture)
    stored = {sources[name].tensor: torch.zeros(shape) for name, shape in shapes_of(spec).items()}
    for name, tensor in decoder.named_tensors():
        sources[name].put(stored, tensor)
    # Converters drop axes of length 1.
    return {name: tensor.squeeze().numpy() for name, tensor in stored.items()}


def step_factors() -> list[float]:
    """As the converter writes them, as if all of a head of 16 rotated."""
    found = []
    for i in range(8):
        turns = 131072 / (2 * np.pi * 5e6 ** (i / 8))
        blend = (turns - 1) / 31
        found.append(1.0 if turns > 32 else 2.0 if turns < 1 else 1 / ((1 - blend) / 2 + blend))
    return found


@pytest.mark.parametrize("architecture", SHARED)
def test_a_file_is_the_model_it_was_made_of(architecture: str, shared: Path, tmp_path: Path) -> None:
    config, stored = save(model_of(architecture, shared), tmp_path / "hub")
    model, decoder = load(config, stored)
    data, tensors = metadata(architecture, model.spec), laid_out(architecture, decoder, model.spec)
    known = known_names(architecture)
    assert [name for name in tensors if not any(one.fullmatch(name) for one in known)] == []
    if architecture == "step35":
        tensors["rope_freqs.weight"] = np.array(step_factors(), dtype=np.float32)
    if architecture in GUESSING:
        tensors["blk.4.nextn.eh_proj.weight"] = np.zeros((4, 8), dtype=np.float32)
    write(tmp_path / "tiny.gguf", data, tensors)
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    assert replace(checkpoint.spec, length_limit=None) == replace(model.spec, length_limit=None)
    theirs = dict(decoder.named_tensors())
    ours = dict(checkpoint.tensors())
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    # It can be written again, as GGUF and with the hub's names.
    again = open_checkpoint(write_gguf_model(tmp_path / "again", checkpoint, ours))
    assert all(torch.equal(tensor, ours[name]) for name, tensor in again.tensors())
    assert {name for one in checkpoint.hub_sources.values() for name in one.tensors} == {
        name for one in read_config(config).sources.values() for name in one.tensors
    }


def test_layers_that_guess_are_no_part_of_step(shared: Path, tmp_path: Path) -> None:
    """As the converter writes them: counted among the layers, with an entry of their own in every list."""
    model, decoder = load(*save(model_of("step35", shared), tmp_path / "hub"))
    without = metadata("step35", model.spec)
    longer = {key.removeprefix("step35."): [*one, one[-1]] for key, one in without.items() if isinstance(one, list)}
    data = metadata("step35", model.spec, block_count=5, nextn_predict_layers=1, **longer)
    tensors = laid_out("step35", decoder, model.spec)
    tensors["rope_freqs.weight"] = np.array(step_factors(), dtype=np.float32)
    tensors["blk.4.nextn.eh_proj.weight"] = np.zeros((4, 8), dtype=np.float32)
    write(tmp_path / "tiny.gguf", data, tensors)
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    assert replace(checkpoint.spec, length_limit=None) == replace(model.spec, length_limit=None)
    assert any("blk.4.nextn.eh_proj.weight" in name for name in checkpoint.left_out)
    theirs = dict(decoder.named_tensors())
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in checkpoint.tensors())
    for bad in (5, -1, "one"):
        with pytest.raises(CheckpointError):
            config_from_gguf({**data, "step35.nextn_predict_layers": bad}, [])


def test_experts_stay_in_their_blocks(shared: Path, tmp_path: Path) -> None:
    """A quantised file's experts are read as they are stored, all in one."""
    model, decoder = load(*save(model_of("qwen3moe", shared), tmp_path / "hub"))
    writer = gguf.GGUFWriter(tmp_path / "q8.gguf", "qwen3moe")
    for key, value in metadata("qwen3moe", model.spec).items():
        if isinstance(value, (str, float)) and key != "general.architecture":
            (writer.add_string if isinstance(value, str) else writer.add_float32)(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
    tensors = laid_out("qwen3moe", decoder, model.spec)
    kind = gguf.GGMLQuantizationType.Q8_0
    packed = {name: gguf.quantize(t, kind) for name, t in tensors.items() if name.endswith("_exps.weight")}
    for name, tensor in tensors.items():
        if name in packed:
            writer.add_tensor(name, packed[name], raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    stored = open_checkpoint(tmp_path / "q8.gguf").stored()
    for part in ("gate", "up", "down"):
        experts, packed_name = stored[f"layers.2.mlp.experts.{part}_proj.weight"], f"blk.2.ffn_{part}_exps.weight"
        assert experts.block_type == "Q8_0" and len(experts.shape) == 3
        assert np.array_equal(experts.read().numpy().reshape(packed[packed_name].shape), packed[packed_name])
        expected = torch.from_numpy(gguf.dequantize(packed[packed_name], kind))
        assert torch.equal(experts.values(), expected.view(experts.shape))


# gpt-oss: llama.cpp rounds the bounds of its rotary scaling, which the model does not. Step-3.5: the factors in the
# file are those of a head that rotates whole.
@pytest.mark.parametrize("architecture", [name for name in SHARED if name not in ("gpt-oss", "step35")])
def test_files_against_llama_cpp(architecture: str, shared: Path, tmp_path: Path) -> None:
    model, decoder = load(*save(model_of(architecture, shared), tmp_path / "hub"))
    changes = {"nextn_predict_layers": None, "block_count": 4} if architecture in GUESSING else {}
    data = metadata(architecture, model.spec, **changes)
    write(tmp_path / "tiny.gguf", data, laid_out(architecture, decoder, model.spec))
    # It chooses blocks in flash attention alone, whose sums are of float16.
    blocks = architecture == "minimax-m3"
    assert_as_llama_cpp(tmp_path / "tiny.gguf", decoder, 2e-3 if blocks else 1e-4, flash_attn=blocks)


@pytest.mark.parametrize("layers", [32, 40])
def test_baichuan(layers: int, tmp_path: Path) -> None:
    """As in llama.cpp, the model of 40 layers has slopes instead of a rotation; both are stored for the interleaved
    layout. The second generation's head is stored with rows of any length."""
    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": layers,
             "rms_norm_eps": EPS}  # fmt: skip
    length = "max_position_embeddings" if layers == 32 else "model_max_length"
    spec = read_config({"model_type": "baichuan", **sizes, "vocab_size": 125_696, length: 4096}).spec
    decoder = random_decoder(spec)
    keys = {
        "context_length": 4096, "embedding_length": 16, "feed_forward_length": 8, "block_count": layers,
        "attention.head_count": 2, "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": EPS,
        "rope.dimension_count": 8, "vocab_size": 125_696, "tensor_data_layout": "Meta AI original pth",
    }  # fmt: skip
    data = {"general.architecture": "baichuan", **{f"baichuan.{key}": value for key, value in keys.items()}}
    head = decoder.lm_head
    assert head is not None
    long = head.weight.detach().clone()
    head.weight.copy_(torch.nn.functional.normalize(long, dim=-1))
    tensors = laid_out("baichuan", decoder, spec)
    write(tmp_path / "tiny.gguf", data, {**tensors, "output.weight": long.numpy()})
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    assert checkpoint.spec == spec and checkpoint.spec.layers[0].mixer.alibi == (layers == 40)
    ours = dict(checkpoint.tensors())
    for name, tensor in decoder.named_tensors():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6 if name == "lm_head.weight" else 0)


def test_every_architecture_with_experts_is_here() -> None:
    others = {name for name, one in ARCHITECTURES.items() if one.latent or one.more in (delta_facts, lightning_facts)}
    others |= {"deepseek4", "qwen4exp"}
    assert {name for name, one in ARCHITECTURES.items() if one.experts} - others == set(SHARED)


REFUSED = [
    ("qwen2moe", {"expert_weights_norm": True}),
    ("qwen3moe", {"expert_gating_func": 2}),
    ("qwen3moe", {"expert_group_count": 4}),
    ("minimax-m2", {"expert_gating_func": 1}),
    ("llama4", {"attention.sliding_window": 0}),
    ("glm4moe", {"something_new": 1}),
    ("hy_v3", {"expert_weights_norm": False}),
    ("hy_v3", {"expert_shared_feed_forward_length": 33}),
    ("step35", {"attention.head_count": [4, 6, 6, 8]}),
    ("step35", {"moe_every_n_layers": 2}),
]


@pytest.mark.parametrize(("architecture", "changes"), REFUSED)
def test_what_is_not_implemented_is_refused(architecture: str, changes: dict[str, Any], shared: Path) -> None:
    spec = read_config(model_of(architecture, shared).config.to_dict()).spec
    with pytest.raises(UnsupportedError):
        config_from_gguf(metadata(architecture, spec, **changes), [])
    for bad in ({"expert_count": 0}, {"expert_used_count": None}, {"expert_feed_forward_length": 10**12}):
        with pytest.raises(CheckpointError):
            config_from_gguf(metadata(architecture, spec, **bad), [])
