"""GGUF files of Kimi-Linear and MiniMax-Text-01: tiny models of transformers, their tensors turned by hand into what
llama.cpp's converter writes, against transformers and llama.cpp."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from cpu_models import on_cpu
from safetensors.torch import load_file
from test_gguf_delta_models import write
from test_gguf_models import assert_as_llama_cpp, assert_goes_back
from tiny_models import packed_logits, random_ids, reference, reference_logits, worst
from torch import Tensor

from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.decoder import Decoder

pytest.importorskip("gguf")

EPS = 1e-6
"""llama.cpp takes the model's for all norms, the published models 1e-6 for those of latents, lengths of keys and what
lightning attention reads."""
SIZES: dict[str, Any] = {
    "vocab_size": 112, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 96, "initializer_range": 0.1, "rms_norm_eps": EPS, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
LAYERS = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]
KIMI: dict[str, Any] = {
    **SIZES, "q_lora_rank": None, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "num_experts": 8, "num_shared_experts": 1, "num_experts_per_token": 2, "moe_intermediate_size": 32,
    "routed_scaling_factor": 2.446, "moe_renormalize": True, "linear_head_dim": 16, "linear_num_heads": 4,
    "layer_types": LAYERS, "model_max_length": 256,
}  # fmt: skip
ALPHA = 3.5565588200778455
MINIMAX: dict[str, Any] = {
    **SIZES, "num_key_value_heads": 2, "max_position_embeddings": 256, "head_dim": 16, "num_local_experts": 4,
    "num_experts_per_tok": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "layer_types": LAYERS,
    **{f"{kind}_alpha_factor": ALPHA for kind in ("full_attn", "linear_attn", "mlp")}, "block_size": 8,
}  # fmt: skip
KINDS = {"kimi-linear": ("kimi_linear", KIMI), "minimax-01": ("minimax", MINIMAX)}
NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "block_sparse_moe.gate": "ffn_gate_inp",
    # Kimi-Linear's.
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    **{f"self_attn.{one}_conv1d": f"ssm_conv1d_{one}" for one in "qkv"},
    **{f"self_attn.{one}_proj": f"ssm_{one}" for one in ("f_a", "f_b", "g_a", "g_b")},
    "self_attn.b_proj": "ssm_beta", "self_attn.o_norm": "ssm_norm",
    **{f"block_sparse_moe.{one}_proj": f"ffn_{one}" for one in ("gate", "up", "down")},
    **{f"block_sparse_moe.shared_experts.{one}_proj": f"ffn_{one}_shexp" for one in ("gate", "up", "down")},
    # MiniMax-Text-01's.
    "self_attn.qkv_proj": "attn_qkv", "self_attn.output_gate": "attn_gate", "self_attn.norm": "attn_norm_2",
    "self_attn.out_proj": "attn_output",
}  # fmt: skip
TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
       "lm_head.weight": "output.weight"}  # fmt: skip
EXPERTS = {"w1": "gate", "w2": "down", "w3": "up"}


def converted(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """A state dict of the hub as the converter writes it."""
    found: dict[str, Tensor] = {}
    experts: dict[str, dict[int, Tensor]] = {}
    for name, x in tensors.items():
        if name in TOP:
            found[TOP[name]] = x
            continue
        layer, inner = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", name).groups()  # type: ignore[union-attr]
        place = f"blk.{layer}."
        if "decay" in inner or "slope_rate" in inner:
            continue
        if expert := re.fullmatch(r"block_sparse_moe\.experts\.(\d+)\.(\w+)\.weight", inner):
            experts.setdefault(f"{place}ffn_{EXPERTS[expert[2]]}_exps.weight", {})[int(expert[1])] = x
        elif inner == "self_attn.kv_b_proj.weight":
            k, v = x.unflatten(0, (4, 32)).split(16, 1)
            found[f"{place}attn_k_b.weight"], found[f"{place}attn_v_b.weight"] = k.transpose(1, 2), v
        elif inner == "self_attn.A_log":
            found[f"{place}ssm_a"] = -x.exp()
        elif inner == "self_attn.dt_bias":
            found[f"{place}ssm_dt.bias"] = x
        elif inner.endswith("e_score_correction_bias"):
            found[f"{place}exp_probs_b.bias"] = x
        else:
            own = x[None] if "conv1d" in inner else x
            found[f"{place}{NAMES[inner.removesuffix('.weight')]}.weight"] = own
    found |= {name: torch.stack([parts[n] for n in sorted(parts)]) for name, parts in experts.items()}
    return {name: x.float().contiguous().numpy() for name, x in found.items()}


def metadata(architecture: str, **changes: Any) -> dict[str, Any]:
    own: dict[str, Any] = {
        "context_length": 256, "embedding_length": 64, "block_count": 4, "feed_forward_length": 96,
        "attention.head_count": 4, "attention.layer_norm_rms_epsilon": EPS, "vocab_size": 112,
    }  # fmt: skip
    if architecture == "kimi-linear":
        own |= {
            "attention.head_count_kv": [0, 0, 0, 1], "attention.key_length": 40, "attention.key_length_mla": 24,
            "attention.value_length_mla": 16, "attention.kv_lora_rank": 32, "rope.dimension_count": 8,
            "rope.freq_base": 1e4, "ssm.conv_kernel": 4, "kda.head_dim": 16, "expert_count": 8, "expert_used_count": 2,
            "expert_feed_forward_length": 32, "expert_shared_count": 1, "expert_gating_func": 2,
            "expert_weights_scale": 2.446, "leading_dense_block_count": 1,
        }  # fmt: skip
    else:
        own |= {
            "attention.head_count_kv": 2, "attention.key_length": 16, "attention.value_length": 16,
            "rope.dimension_count": 16, "rope.freq_base": 1e6, "expert_count": 4, "expert_used_count": 2,
            "residual_scale": ALPHA, "full_attention_interval": 4,
        }  # fmt: skip
    found = {"general.architecture": architecture, "tokenizer.ggml.model": "no_vocab"}
    return found | {f"{architecture}.{key}": value for key, value in {**own, **changes}.items()}


def made(architecture: str, folder: Path) -> tuple[Any, dict[str, np.ndarray]]:
    kind, sizes = KINDS[architecture]
    model = reference(kind, sizes)
    model.save_pretrained(folder)
    return model, converted(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize("architecture", KINDS)
def test_files_of_the_converter(architecture: str, extension: ModuleType, tmp_path: Path) -> None:
    model, tensors = made(architecture, tmp_path)
    write(tmp_path / "a.gguf", metadata(architecture), tensors)
    checkpoint = open_checkpoint(tmp_path / "a.gguf")
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    sequences = random_ids((90, 23))
    theirs = reference_logits(model, sequences)
    for one in (decoder, on_cpu(extension, decoder, "float32")):
        assert worst(packed_logits(one, sequences), theirs) < 1e-4  # type: ignore[arg-type]
    folder = open_checkpoint(tmp_path)
    expected = dict(folder.tensors())
    assert {source.tensors for source in checkpoint.hub_sources.values()} == {
        source.tensors for source in folder.hub_sources.values()
    } or architecture == "kimi-linear"  # transformers writes its dense layer under another name than the hub's.
    for name, tensor in checkpoint.tensors():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", KINDS)
def test_quantised_rows_are_split_without_loss(architecture: str, extension: ModuleType, tmp_path: Path) -> None:
    _, tensors = made(architecture, tmp_path)
    for name, quantised in (("exact", False), ("q8", True)):
        write(tmp_path / f"{name}.gguf", metadata(architecture), tensors, quantised=quantised)
    exact, stored = (open_checkpoint(tmp_path / f"{name}.gguf").stored() for name in ("exact", "q8"))
    for name, tensor in stored.items():
        values = exact[name].values()
        torch.testing.assert_close(tensor.values(), values, rtol=0, atol=0.005 * values.abs().max().item())
    kept = {t.block_type for name, t in stored.items() if "in_proj" in name or "q_proj" in name}
    assert kept == {"Q8_0"}


def test_which_layers_keep_states(tmp_path: Path) -> None:
    """A list says it, or an interval does; of Kimi-Linear the heads of keys and values."""
    _, tensors = made("minimax-01", tmp_path)
    changes = {"full_attention_interval": 2, "attention.recurrent_layers": [True, True, True, False]}
    write(tmp_path / "a.gguf", metadata("minimax-01", **changes), tensors)
    file, folder = (open_checkpoint(path).spec for path in (tmp_path / "a.gguf", tmp_path))
    assert [layer.mixer for layer in file.layers] == [layer.mixer for layer in folder.layers]
    _, tensors = made("kimi-linear", tmp_path)
    write(tmp_path / "b.gguf", metadata("kimi-linear", **{"attention.head_count_kv": 4}), tensors)
    with pytest.raises(CheckpointError, match="head_count_kv for every layer"):
        open_checkpoint(tmp_path / "b.gguf")
    write(tmp_path / "c.gguf", metadata("kimi-linear", expert_gating_func=1), tensors)
    with pytest.raises(UnsupportedError, match="expert_gating_func"):
        open_checkpoint(tmp_path / "c.gguf")


def test_older_files_of_latents(tmp_path: Path) -> None:
    """Keys and values of the latents in one tensor, which the first layers have not."""
    _, tensors = made("kimi-linear", tmp_path)
    write(tmp_path / "new.gguf", metadata("kimi-linear"), tensors)
    k, v = (torch.from_numpy(tensors.pop(f"blk.3.attn_{one}_b.weight")) for one in "kv")
    tensors["blk.3.attn_kv_b.weight"] = torch.cat((k.transpose(1, 2), v), 1).flatten(0, 1).contiguous().numpy()
    write(tmp_path / "old.gguf", metadata("kimi-linear"), tensors)
    expected = dict(open_checkpoint(tmp_path / "new.gguf").tensors())
    for name, tensor in open_checkpoint(tmp_path / "old.gguf").tensors():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("architecture", KINDS)
def test_a_changed_model_goes_back_into_its_file(architecture: str, tmp_path: Path) -> None:
    _, tensors = made(architecture, tmp_path)
    write(tmp_path / "a.gguf", metadata(architecture), tensors)
    assert_goes_back(tmp_path / "a.gguf", tmp_path / "b")


@pytest.mark.parametrize("architecture", KINDS)
def test_files_against_llama_cpp(architecture: str, tmp_path: Path) -> None:
    _, tensors = made(architecture, tmp_path)
    write(tmp_path / "tiny.gguf", metadata(architecture), tensors)
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    assert_as_llama_cpp(tmp_path / "tiny.gguf", decoder)
