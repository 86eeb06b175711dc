"""GGUF files of models with gated delta nets: tiny models of transformers, their tensors turned by hand into what
llama.cpp's converter writes, against transformers."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from cpu_models import on_cpu
from safetensors.torch import load_file
from test_gguf_models import assert_as_llama_cpp, assert_goes_back
from tiny_models import packed_logits, random_ids, reference, reference_logits, worst
from torch import Tensor

from landrace.checkpoints.adapter import read_adapter, write_adapter
from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.checkpoints.write import write_checkpoint
from landrace.models.adapters import fresh_tensors
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.cpu_decoder import CpuDecoder
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import LoraSpec

gguf = pytest.importorskip("gguf")

KEY_HEADS, VALUE_HEADS, KEY_DIM, VALUE_DIM, HEADS, HEAD_DIM = 2, 4, 32, 16, 4, 32
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
           "shared_expert_intermediate_size": 64}  # fmt: skip
SIZES: dict[str, Any] = {
    "vocab_size": 112, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": HEADS,
    "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 256, "initializer_range": 0.1,
    "rms_norm_eps": 2.0**-8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "head_dim": HEAD_DIM,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": KEY_DIM, "linear_value_head_dim": VALUE_DIM,
    "linear_num_key_heads": KEY_HEADS, "linear_num_value_heads": VALUE_HEADS,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
}  # fmt: skip
KINDS = {"qwen3next": "qwen3_next", "qwen35": "qwen3_5_text", "qwen35moe": "qwen3_5_moe_text"}
NAMES = {
    "linear_attn.in_proj_z": "attn_gate", "linear_attn.in_proj_b": "ssm_beta", "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_qkv": "attn_qkv", "linear_attn.conv1d": "ssm_conv1d", "linear_attn.in_proj_ba": "ssm_ba",
    "linear_attn.norm": "ssm_norm", "linear_attn.out_proj": "ssm_out", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    **{f"mlp.shared_expert.{one}_proj": f"ffn_{one}_shexp" for one in ("gate", "up", "down")},
}  # fmt: skip
TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
       "lm_head.weight": "output.weight"}  # fmt: skip


def tiled(x: Tensor, width: int, axis: int = 0) -> Tensor:
    """Value heads of `width`, grouped by key head, to the first of each group before the second ones."""
    heads = x.movedim(axis, 0).unflatten(0, (KEY_HEADS, VALUE_HEADS // KEY_HEADS, width))
    return heads.transpose(0, 1).flatten(0, 2).movedim(0, axis)


def converted(tensors: dict[str, Tensor], *, tiles: bool) -> dict[str, np.ndarray]:
    """A state dict of the hub as the converter writes it."""
    keys, found = KEY_HEADS * KEY_DIM, {}
    experts: dict[str, dict[int, Tensor]] = {}
    for name, x in tensors.items():
        x = x.float()
        if name in TOP:
            found[TOP[name]] = x + 1 if "norm" in name else x
            continue
        layer, inner = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", name).groups()  # type: ignore[union-attr]
        if expert := re.fullmatch(r"mlp\.experts\.(\d+)\.(\w+)_proj\.weight", inner):
            experts.setdefault(f"blk.{layer}.ffn_{expert[2]}_exps.weight", {})[int(expert[1])] = x
            continue
        if inner.endswith("norm.weight") and "linear_attn" not in inner:
            x = x + 1
        if "conv1d" in inner:
            x = x.squeeze()
        if "in_proj_qkvz" in inner:
            share = VALUE_HEADS // KEY_HEADS * VALUE_DIM
            parts = x.unflatten(0, (KEY_HEADS, -1)).split((KEY_DIM, KEY_DIM, share, share), 1)
            q, k, v, z = (part.flatten(0, 1) for part in parts)
            found[f"blk.{layer}.attn_qkv.weight"], found[f"blk.{layer}.attn_gate.weight"] = torch.cat((q, k, v)), z
            continue
        if tiles and ("in_proj_qkv" in inner or "conv1d" in inner):
            x = torch.cat((x[: 2 * keys], tiled(x[2 * keys :], VALUE_DIM)))
        elif tiles and "in_proj_z" in inner:
            x = tiled(x, VALUE_DIM)
        elif tiles and any(one in inner for one in ("in_proj_a", "in_proj_b", "A_log", "dt_bias")):
            x = tiled(x, 1)
        elif tiles and "out_proj" in inner:
            x = tiled(x, VALUE_DIM, 1)
        if inner == "linear_attn.A_log":
            found[f"blk.{layer}.ssm_a"] = -x.exp()
        elif inner == "linear_attn.dt_bias":
            found[f"blk.{layer}.ssm_dt.bias"] = x
        else:
            found[f"blk.{layer}.{NAMES[inner.removesuffix('.weight')]}.weight"] = x.squeeze()
    found |= {name: torch.stack([parts[n] for n in sorted(parts)]) for name, parts in experts.items()}
    return {name: x.contiguous().numpy() for name, x in found.items()}


def metadata(architecture: str, **changes: Any) -> dict[str, Any]:
    own: dict[str, Any] = {
        "context_length": 256, "embedding_length": 64, "block_count": 4, "attention.head_count": HEADS,
        "attention.head_count_kv": 2, "attention.key_length": HEAD_DIM, "attention.value_length": HEAD_DIM,
        "attention.layer_norm_rms_epsilon": 2.0**-8, "rope.dimension_count": HEAD_DIM // 4, "rope.freq_base": 1e6,
        "vocab_size": 112, "ssm.conv_kernel": 4, "ssm.state_size": KEY_DIM, "ssm.group_count": KEY_HEADS,
        "ssm.time_step_rank": VALUE_HEADS, "ssm.inner_size": VALUE_HEADS * VALUE_DIM, "full_attention_interval": 4,
    }  # fmt: skip
    if architecture != "qwen35moe":
        own["feed_forward_length"] = 96
    if architecture != "qwen3next":
        own["rope.dimension_sections"] = [2, 1, 1, 0]
    if architecture != "qwen35":
        own |= {"expert_count": 6, "expert_used_count": 2, "expert_feed_forward_length": 32,
                "expert_shared_feed_forward_length": 64}  # fmt: skip
    own |= changes
    found = {"general.architecture": architecture, "tokenizer.ggml.model": "no_vocab"}
    return found | {f"{architecture}.{key}": value for key, value in own.items()}


def write(path: Path, data: dict[str, Any], tensors: dict[str, np.ndarray], *, quantised: bool = False) -> None:
    writer = gguf.GGUFWriter(path, data["general.architecture"])
    for key, value in data.items():
        if key != "general.architecture":
            add = {
                str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32,
                list: writer.add_array,
            }  # fmt: skip
            add[type(value)](key, value)
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in tensors.items():
        if quantised and tensor.ndim >= 2 and "conv1d" not in name and tensor.shape[-1] % 32 == 0:
            writer.add_tensor(name, gguf.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def made(architecture: str, folder: Path) -> tuple[Any, dict[str, np.ndarray]]:
    kind = KINDS[architecture]
    model = reference(kind, SIZES if kind == "qwen3_5_text" else {**SIZES, **EXPERTS})
    model.save_pretrained(folder)
    return model, converted(load_file(folder / "model.safetensors"), tiles=architecture != "qwen3next")


def known_names(architecture: str) -> list[re.Pattern[str]]:
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = [gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[arch]]
    return [re.compile(re.escape(name).replace(r"\{bid\}", r"\d+") + r"(\.(weight|bias))?") for name in names]


@pytest.mark.parametrize("architecture", KINDS)
def test_files_of_the_converter(architecture: str, extension: ModuleType, tmp_path: Path) -> None:
    model, tensors = made(architecture, tmp_path)
    patterns = known_names(architecture)
    assert [name for name in tensors if not any(pattern.fullmatch(name) for pattern in patterns)] == []
    write(tmp_path / "a.gguf", metadata(architecture), tensors)
    checkpoint = open_checkpoint(tmp_path / "a.gguf")
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    sequences = random_ids((90, 23))
    theirs = reference_logits(model, sequences)
    for one in (decoder, on_cpu(extension, decoder, "float32")):
        assert worst(packed_logits(one, sequences), theirs) < 1e-4  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", KINDS)
def test_quantised_rows_are_split_without_loss(architecture: str, extension: ModuleType, tmp_path: Path) -> None:
    """Rows of heads are picked out of blocks, and stay blocks for the C++ kernels."""
    _, tensors = made(architecture, tmp_path)
    for name, quantised in (("exact", False), ("q8", True)):
        write(tmp_path / f"{name}.gguf", metadata(architecture), tensors, quantised=quantised)
    exact, stored = (open_checkpoint(tmp_path / f"{name}.gguf").stored() for name in ("exact", "q8"))
    for name, tensor in stored.items():
        values = exact[name].values()
        torch.testing.assert_close(tensor.values(), values, rtol=0, atol=0.005 * values.abs().max().item())
    assert {t.block_type for name, t in stored.items() if "q_proj" in name or "in_proj" in name} == {"Q8_0"}
    spec = open_checkpoint(tmp_path / "q8.gguf").spec
    assert packed_logits(CpuDecoder(spec, extension, threads=2).load(stored), [[5, 6]])[0].isfinite().all()  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", KINDS)
def test_the_layer_that_guesses_further_tokens(architecture: str, tmp_path: Path) -> None:
    _, tensors = made(architecture, tmp_path)
    tensors["blk.4.nextn.eh_proj.weight"] = np.zeros((64, 128), np.float32)
    write(tmp_path / "a.gguf", metadata(architecture, block_count=5, nextn_predict_layers=1), tensors)
    checkpoint = open_checkpoint(tmp_path / "a.gguf")
    assert len(checkpoint.spec.layers) == 4 and checkpoint.left_out == ("blk.4.nextn.eh_proj.weight",)


@pytest.mark.parametrize("architecture", KINDS)
def test_adapters_of_the_hub_fit_the_files_order_of_heads(
    architecture: str, extension: ModuleType, tmp_path: Path
) -> None:
    """An adapter on every projection gives what it gives in the folder, and is written as it was."""
    _, tensors = made(architecture, tmp_path / "hub")
    write(tmp_path / "a.gguf", metadata(architecture), tensors)
    folder, file = open_checkpoint(tmp_path / "hub"), open_checkpoint(tmp_path / "a.gguf")
    assert file.spec.heads_in_rounds == (architecture != "qwen3next") and not folder.spec.heads_in_rounds
    spec, generator = LoraSpec(3, 6.0), torch.Generator().manual_seed(0)
    fresh = fresh_tensors(Decoder(folder.spec).adaptable(spec.targets), spec)
    random = {name: 0.2 * torch.randn(tensor.shape, generator=generator) for name, tensor in fresh.items()}
    write_adapter(tmp_path / "adapter", spec, random, folder.adapter_sources[0], "base", {})
    found = []
    for checkpoint in (folder, file):
        own, read, _ = read_adapter(tmp_path / "adapter", *checkpoint.adapter_sources)
        decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
        for one in (decoder, on_cpu(extension, decoder, "float32")):
            rows = AdapterRows(one.add_adapter(own, read), None)
            with torch.no_grad():
                found.append(one(ForwardBatch.packed(random_ids((40,)), adapters=(rows,))))
    assert worst(found[1:], [found[0]] * 3) < 1e-4 * found[0].abs().max().item()
    write_adapter(tmp_path / "again", own, read, file.adapter_sources[0], "base", {})
    before, after = (load_file(tmp_path / one / "adapter_model.safetensors") for one in ("adapter", "again"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("architecture", KINDS)
def test_a_file_becomes_a_folder_of_the_hub(architecture: str, tmp_path: Path) -> None:
    _, tensors = made(architecture, tmp_path / "hub")
    write(tmp_path / "a.gguf", metadata(architecture), tensors)
    file = open_checkpoint(tmp_path / "a.gguf")
    write_checkpoint(tmp_path / "written", file.config, file.hub_sources, file.tensors())
    written, hub = open_checkpoint(tmp_path / "written"), open_checkpoint(tmp_path / "hub")
    assert written.spec == hub.spec
    expected = dict(hub.tensors())
    for name, tensor in written.tensors():
        torch.testing.assert_close(tensor.float(), expected[name].float(), rtol=1e-5, atol=1e-5)


def with_old_forms(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What goes into a delta net in one tensor, key head by key head, as older files have it; gate and up of all
    experts in one, as newer files may."""
    found = dict(tensors)
    for n in range(4):
        if f"blk.{n}.ssm_a" in found:
            qkv, z = (torch.from_numpy(found.pop(f"blk.{n}.{name}.weight")) for name in ("attn_qkv", "attn_gate"))
            keys = KEY_HEADS * KEY_DIM
            parts = (*qkv.split((keys, keys, VALUE_HEADS * VALUE_DIM)), z)
            heads = [part.unflatten(0, (KEY_HEADS, -1)) for part in parts]
            found[f"blk.{n}.ssm_in.weight"] = torch.cat(heads, 1).flatten(0, 1).contiguous().numpy()
        gate, up = (found.pop(f"blk.{n}.ffn_{name}_exps.weight") for name in ("gate", "up"))
        found[f"blk.{n}.ffn_gate_up_exps.weight"] = np.concatenate((gate, up), 1)
    return found


@pytest.mark.parametrize("quantised", [False, True])
def test_older_and_newer_forms(quantised: bool, tmp_path: Path) -> None:
    _, tensors = made("qwen3next", tmp_path)
    for name, some in (("usual", tensors), ("other", with_old_forms(tensors))):
        write(tmp_path / f"{name}.gguf", metadata("qwen3next"), some, quantised=quantised)
    usual, other = (open_checkpoint(tmp_path / f"{name}.gguf") for name in ("usual", "other"))
    assert "blk.0.ssm_in.weight" in other.tensor_infos and "blk.0.ffn_gate_up_exps.weight" in other.tensor_infos
    expected = usual.stored()
    for name, tensor in other.stored().items():
        assert tensor.block_type == expected[name].block_type
        assert torch.equal(tensor.read(), expected[name].read()), name


@pytest.mark.parametrize("architecture", KINDS)
def test_a_changed_model_goes_back_into_its_file(architecture: str, tmp_path: Path) -> None:
    _, tensors = made(architecture, tmp_path)
    write(tmp_path / "a.gguf", metadata(architecture), tensors)
    assert_goes_back(tmp_path / "a.gguf", tmp_path / "b")


@pytest.mark.parametrize("architecture", KINDS)
def test_files_against_llama_cpp(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It computes states with as many channels of values as of keys, and takes the model's epsilon for the lengths of
    # queries and keys, where transformers takes 1e-6.
    eps = 1e-6
    monkeypatch.setattr(sys.modules[__name__], "VALUE_DIM", KEY_DIM)
    for key, value in {"linear_value_head_dim": KEY_DIM, "rms_norm_eps": eps}.items():
        monkeypatch.setitem(SIZES, key, value)
    _, tensors = made(architecture, tmp_path)
    data = metadata(architecture, **{"attention.layer_norm_rms_epsilon": eps})
    write(tmp_path / "tiny.gguf", data, tensors)
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    assert_as_llama_cpp(tmp_path / "tiny.gguf", decoder)
    if architecture == "qwen3next":
        write(tmp_path / "old.gguf", data, with_old_forms(tensors))
        assert_as_llama_cpp(tmp_path / "old.gguf", decoder)
