"""GGUF files of Kimi-K3: a tiny model's tensors turned by hand into what llama.cpp's converter writes, against formulas
and llama.cpp."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from cpu_models import on_cpu
from kimi_k3_oracle import ATTENDING, BESIDE, CONFIG, DELTA_DIM, HEADS, LATENT, NOPE, RANK, VALUE, Oracle, tensors
from test_gguf_delta_models import write
from test_gguf_models import assert_as_llama_cpp, assert_goes_back
from tiny_models import packed_logits, random_ids, worst
from torch import Tensor

from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.decoder import Decoder

pytest.importorskip("gguf")

EPS = 1e-6
"""llama.cpp takes the model's for all norms, the published model 1e-6 for those of latents and lengths of keys."""
NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attn_output",
    **{f"self_attn.{one}_proj": f"attn_{one}" for one in "qkv"}, "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    **{f"self_attn.{one}_layernorm": f"attn_{one}_norm" for one in ("q_a", "kv_a")},
    **{f"self_attn.{one}_proj": f"attn_{one}" for one in ("q_a", "q_b")},
    **{f"self_attn.{one}_conv1d": f"ssm_conv1d_{one}" for one in "qkv"},
    **{f"self_attn.{one}_proj": f"ssm_{one}" for one in ("f_a", "f_b")},
    "self_attn.b_proj": "ssm_beta", "self_attn.o_norm": "ssm_norm", "block_sparse_moe.gate": "ffn_gate_inp",
    **{f"mlp.{one}_proj": f"ffn_{one}" for one in ("gate", "up", "down")},
    **{f"block_sparse_moe.shared_experts.{one}_proj": f"ffn_{one}_shexp" for one in ("gate", "up", "down")},
    **{f"block_sparse_moe.routed_expert_{one}_proj": f"ffn_routed_{one}" for one in ("up", "down")},
    "block_sparse_moe.routed_expert_norm": "ffn_routed_norm",
}  # fmt: skip
TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
       "lm_head.weight": "output.weight"}  # fmt: skip
EXPERTS = {"w1": "gate", "w2": "down", "w3": "up"}
SCORES = {"self_attention": "attn_res_score", "mlp": "ffn_res_score"}


def converted(t: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """The hub's tensors as the converter writes them."""
    found: dict[str, Tensor] = {}
    experts: dict[str, dict[int, Tensor]] = {}
    for name, x in t.items():
        if name in TOP:
            found[TOP[name]] = x
        elif name.endswith("_res_norm.weight"):
            product = x * t[name.replace("_norm.", "_proj.")][0]
            kind = re.fullmatch(r"model\.(?:layers\.(\d+)\.)?(\w+)_res_norm\.weight", name)
            assert kind is not None
            place = "output_res_score" if kind[1] is None else f"blk.{kind[1]}.{SCORES[kind[2]]}"
            found[f"{place}.weight"] = product
        elif not name.endswith("_res_proj.weight"):
            layer, inner = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", name).groups()  # type: ignore[union-attr]
            place = f"blk.{layer}."
            if expert := re.fullmatch(r"block_sparse_moe\.experts\.(\d+)\.(\w+)\.weight", inner):
                experts.setdefault(f"{place}ffn_{EXPERTS[expert[2]]}_exps.weight", {})[int(expert[1])] = x
            elif inner == "self_attn.kv_b_proj.weight":
                k, v = x.unflatten(0, (HEADS, NOPE + VALUE)).split([NOPE, VALUE], 1)
                found[f"{place}attn_k_b.weight"], found[f"{place}attn_v_b.weight"] = k.transpose(1, 2), v
            elif inner == "self_attn.A_log":
                found[f"{place}ssm_a"] = -x[:HEADS].exp()
            elif inner == "self_attn.dt_bias":
                found[f"{place}ssm_dt.bias"] = x
            elif inner.endswith("e_score_correction_bias"):
                found[f"{place}exp_probs_b.bias"] = x
            elif inner == "self_attn.g_proj.weight":
                found[f"{place}{'attn_gate' if int(layer) + 1 in ATTENDING else 'ssm_g'}.weight"] = x
            else:
                own = x[None] if "conv1d" in inner else x
                found[f"{place}{NAMES[inner.removesuffix('.weight')]}.weight"] = own
    found |= {name: torch.stack([parts[n] for n in sorted(parts)]) for name, parts in experts.items()}
    return {name: x.float().contiguous().numpy() for name, x in found.items()}


def metadata(**changes: Any) -> dict[str, Any]:
    own: dict[str, Any] = {
        "context_length": 256, "embedding_length": 48, "block_count": 5, "feed_forward_length": 64, "vocab_size": 112,
        "attention.head_count": HEADS, "attention.head_count_kv": [int(n in ATTENDING) for n in range(1, 6)],
        "attention.layer_norm_rms_epsilon": EPS, "attention.key_length": RANK + BESIDE,
        "attention.value_length": RANK, "attention.key_length_mla": NOPE + BESIDE, "attention.value_length_mla": VALUE,
        "attention.q_lora_rank": 24, "attention.kv_lora_rank": RANK, "rope.dimension_count": BESIDE,
        "ssm.conv_kernel": 4, "kda.head_dim": DELTA_DIM, "kda.gate_lower_bound": -5.0, "expert_count": 8,
        "expert_used_count": 3, "expert_feed_forward_length": 32, "expert_shared_count": 2, "expert_gating_func": 2,
        "expert_weights_scale": 1.5, "expert_weights_norm": True, "leading_dense_block_count": 1,
        "expert_latent_length": LATENT, "attn_res.block_size": 2, "activation.situ_beta": 1.5,
        "activation.situ_linear_beta": 2.5,
    }  # fmt: skip
    found = {"general.architecture": "kimi-k3", "tokenizer.ggml.model": "no_vocab"}
    return found | {f"kimi-k3.{key}": value for key, value in {**own, **changes}.items()}


def test_a_file_of_the_converter(extension: ModuleType, tmp_path: Path) -> None:
    t = tensors()
    write(tmp_path / "a.gguf", metadata(), converted(t))
    checkpoint = open_checkpoint(tmp_path / "a.gguf")
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    oracle = Oracle({**CONFIG, "rms_norm_eps": EPS}, {name: one.double() for name, one in t.items()})
    sequences = random_ids((90, 23))
    theirs = [oracle.logits(ids).float() for ids in sequences]
    near = 1e-4 * theirs[0].abs().max()
    for one in (decoder, on_cpu(extension, decoder, "float32")):
        assert worst(packed_logits(one, sequences), theirs) < near  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{}, {"activation.situ_linear_beta": 0.0}, {"expert_weights_norm": False}])
def test_files_against_llama_cpp(change: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "tiny.gguf", metadata(**change), converted(tensors()))
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    assert_as_llama_cpp(tmp_path / "tiny.gguf", Decoder(checkpoint.spec).load(checkpoint.tensors()))


def test_a_changed_model_goes_back_into_its_file(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf", metadata(), converted(tensors()))
    assert_goes_back(tmp_path / "a.gguf", tmp_path / "b")


def test_what_it_is_not_is_refused(tmp_path: Path) -> None:
    made = converted(tensors())
    write(tmp_path / "a.gguf", metadata(expert_gating_func=1), made)
    with pytest.raises(UnsupportedError, match="expert_gating_func"):
        open_checkpoint(tmp_path / "a.gguf")
    write(tmp_path / "b.gguf", metadata(**{"attention.head_count_kv": 1}), made)
    with pytest.raises(CheckpointError, match="head_count_kv for every layer"):
        open_checkpoint(tmp_path / "b.gguf")
