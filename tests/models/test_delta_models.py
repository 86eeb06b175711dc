"""Models with gated delta nets from their own files: adapters, gradients, what is left out, what a wrong field does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cpu_models import on_cpu
from peft_adapters import assert_pefts_are_ours
from safetensors.torch import load_file, save_file
from tiny_models import packed_logits, reference, reference_logits, worst

from landrace.checkpoints.checkpoint import Checkpoint, open_checkpoint
from landrace.errors import CheckpointError, UnsupportedError
from landrace.model import left_out_notice
from landrace.models.batch import ForwardBatch
from landrace.models.declared import count
from landrace.models.decoder import Decoder
from landrace.models.families import read_config
from landrace.models.mixer_spec import Gdn, Gqa
from landrace.models.stored import held_as

peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "vocab_size": 112, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 256, "initializer_range": 0.1, "rms_norm_eps": 3e-3,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 32, "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 12, "linear_num_key_heads": 2, "linear_num_value_heads": 6,
}  # fmt: skip
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
           "shared_expert_intermediate_size": 32}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "qwen3_next": {**SIZES, **EXPERTS, "mlp_only_layers": [0, 1, 2, 3]},
    "qwen3_5_text": SIZES,
}
TARGETS = {
    "qwen3_next": ["in_proj_qkvz", "in_proj_ba"],
    "qwen3_5_text": ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"],
}
SEQUENCES = [[3 + (7 * i + i * i) % 100 for i in range(n)] for n in (150, 23)]


def saved(kind: str, folder: Path) -> tuple[Any, Checkpoint]:
    model = reference(kind, KINDS[kind])
    model.save_pretrained(folder)
    return model, open_checkpoint(folder)


def opened(checkpoint: Checkpoint) -> Decoder:
    return Decoder(checkpoint.spec).load(checkpoint.tensors())


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_on_every_projection(kind: str, extension: ModuleType, tmp_path: Path) -> None:
    """peft's are ours on both backends, and what we write of them is peft's again."""
    model, checkpoint = saved(kind, tmp_path / "model")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "out_proj", *TARGETS[kind]]
    assert_pefts_are_ours(model, checkpoint, targets, SEQUENCES, extension, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    """Of every weight, over more than two chunks."""
    model, checkpoint = saved(kind, tmp_path)
    decoder = opened(checkpoint).requires_grad_(True)
    weight = torch.randn(sum(map(len, SEQUENCES)), 112, generator=torch.Generator().manual_seed(0))
    (decoder(ForwardBatch.packed(SEQUENCES)) * weight).sum().backward()
    model.requires_grad_(True)
    found = torch.cat([model(input_ids=torch.tensor([ids])).logits[0] for ids in SEQUENCES])
    (found * weight).sum().backward()
    theirs = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in decoder.named_parameters():
        source = checkpoint.sources[name]
        expected = source.part(theirs[source.tensor])
        assert parameter.grad is not None
        # Theirs of decays change by up to 2.4e-4 of the greatest with the number of PyTorch's threads.
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=5e-4 * expected.abs().max().item())


def _delta(checkpoint: Checkpoint, **changes: Any) -> Any:
    return replace(
        checkpoint.spec,
        layers=tuple(
            replace(one, mixer=replace(one.mixer, **changes)) if isinstance(one.mixer, Gdn) else one
            for one in checkpoint.spec.layers
        ),
    )


def test_wrong_fields_show(tmp_path: Path) -> None:
    model, checkpoint = saved("qwen3_next", tmp_path)
    theirs, right = reference_logits(model, SEQUENCES), opened(checkpoint)
    assert worst(packed_logits(right, SEQUENCES), theirs) < 1e-4
    wrong = Decoder(_delta(checkpoint, rounds=True)).load(right.named_tensors())
    assert worst(packed_logits(wrong, SEQUENCES), theirs) > 1e-2
    for changed, value in (("a_log", 0.3), ("dt_bias", 0.3), ("gated_norm", 1.0), ("g_proj", 0.1)):
        tensors = ((name, t + value if changed in name else t) for name, t in right.named_tensors())
        assert worst(packed_logits(Decoder(checkpoint.spec).load(tensors), SEQUENCES), theirs) > 1e-2, changed


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_weights_leave_convolutions_alone(kind: str, extension: ModuleType, tmp_path: Path) -> None:
    _, checkpoint = saved(kind, tmp_path)
    held = {name: held_as(name, tensor, "bfloat16") for name, tensor in checkpoint.stored().items()}
    kept = {name.rpartition("self_attn.")[2] for name, tensor in held.items() if tensor.block_type == "F32"}
    assert {"q_conv.weight", "k_conv.weight", "v_conv.weight", "a_log.weight", "dt_bias.weight"} <= kept
    assert not any("proj" in name for name in kept)
    decoder = opened(checkpoint)
    exact = packed_logits(decoder, SEQUENCES)
    near = packed_logits(on_cpu(extension, decoder, "int8"), SEQUENCES)  # type: ignore[arg-type]
    assert 1e-4 < worst(near, exact) < 0.3 * exact[0].abs().max()


def test_the_layer_that_guesses_further_tokens_is_left_out(tmp_path: Path) -> None:
    _, checkpoint = saved("qwen3_5_text", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["mtp.layers.0.self_attn.q_proj.weight"] = torch.zeros(256, 64)
    tensors["mtp.fc.weight"] = torch.zeros(64, 128)
    save_file(tensors, tmp_path / "model.safetensors")
    again = open_checkpoint(tmp_path)
    assert again.spec == checkpoint.spec
    assert again.left_out == ("mtp.fc.weight", "mtp.layers.0.self_attn.q_proj.weight")
    assert left_out_notice(again) == (
        "Left out: mtp.fc.weight and 1 more tensors, which guess tokens after the next one."
    )
    assert checkpoint.left_out == () and left_out_notice(checkpoint) is None
    tensors["mtq.fc.weight"] = torch.zeros(64, 128)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"mtq\.fc"):
        open_checkpoint(tmp_path)


def test_the_published_size_of_qwen3_next() -> None:
    """Qwen3-Next-80B-A3B, without the layer that guesses further tokens."""
    config = {
        "model_type": "qwen3_next", "vocab_size": 151936, "hidden_size": 2048, "num_hidden_layers": 48,
        "num_experts": 512, "num_experts_per_tok": 10, "intermediate_size": 5120, "rope_theta": 10000000,
        "partial_rotary_factor": 0.25, "full_attention_interval": 4, "norm_topk_prob": True, "rope_scaling": None,
        "use_sliding_window": False, "mlp_only_layers": [], "max_position_embeddings": 262144,
    }  # fmt: skip
    spec = read_config(config).spec
    counted = count(spec)
    assert counted.total == 79_674_391_296 and 3.5e9 < counted.active < 4e9
    assert [type(layer.mixer) for layer in spec.layers] == [Gdn, Gdn, Gdn, Gqa] * 12
    assert sum(layer.mixer.state_bytes for layer in spec.layers) == 36 * 4 * (32 * 128 * 128 + 3 * 8192)


REFUSED: dict[str, Mapping[str, Any]] = {
    "heads that cannot be shared": {"linear_num_value_heads": 5},
    "a convolution that is too wide": {"linear_conv_kernel_dim": 9},
    "biases": {"attention_bias": True},
    "attention without a gate": {"attn_output_gate": False},
    "an unknown kind of layer": {"layer_types": ["linear_attention", "mamba", "linear_attention", "full_attention"]},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_is_not_is_refused(case: str) -> None:
    with pytest.raises((CheckpointError, UnsupportedError)):
        read_config({"model_type": "qwen3_5_text", **SIZES, **REFUSED[case]})
