"""Kimi-Linear and MiniMax-Text-01 from their own files: names, adapters, gradients, sizes, what a wrong field does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cpu_models import on_cpu
from peft_adapters import assert_pefts_are_ours
from safetensors.torch import load_file
from tiny_models import load, packed_logits, reference, reference_logits, save, worst
from torch import Tensor

from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.checkpoints.write import write_checkpoint
from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.batch import ForwardBatch
from landrace.models.declared import count
from landrace.models.decoder import Decoder
from landrace.models.families import read_config
from landrace.models.mixer_spec import Gqa, Kda, Lightning, Mla, RopeSpec
from landrace.models.spec import AfterNorm, LayerSpec, ModelSpec
from landrace.models.stored import held_as

peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

TARGETS = {
    "kimi_linear": [
        *("q_proj", "k_proj", "v_proj", "b_proj", "f_a_proj", "f_b_proj", "g_a_proj", "g_b_proj", "o_proj"),
        *("kv_a_proj_with_mqa", "kv_b_proj", "gate_proj", "up_proj", "down_proj"),
    ],
    "minimax": ["qkv_proj", "output_gate", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj"],
}
SEQUENCES = [[3 + (7 * i + i * i) % 100 for i in range(n)] for n in (150, 23)]
ALPHA = 3.5565588200778455
KIMI_48B: dict[str, Any] = {
    "model_type": "kimi_linear", "architectures": ["KimiLinearForCausalLM"], "first_k_dense_replace": 1, "head_dim": 72,
    "hidden_act": "silu", "hidden_size": 2304, "intermediate_size": 9216, "kv_lora_rank": 512,
    "linear_attn_config": {
        "full_attn_layers": [4, 8, 12, 16, 20, 24, 27], "head_dim": 128, "num_heads": 32, "short_conv_kernel_size": 4,
        "kda_layers": [1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19, 21, 22, 23, 25, 26],
    },
    "mla_use_nope": True, "model_max_length": 1048576, "moe_intermediate_size": 1024, "moe_layer_freq": 1,
    "moe_renormalize": True, "moe_router_activation_func": "sigmoid", "num_attention_heads": 32, "num_expert_group": 1,
    "num_experts": 256, "num_experts_per_token": 8, "num_hidden_layers": 27, "num_key_value_heads": 32,
    "num_nextn_predict_layers": 0, "num_shared_experts": 1, "q_lora_rank": None, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 10000.0,
    "routed_scaling_factor": 2.446, "tie_word_embeddings": False, "topk_group": 1, "use_grouped_topk": True,
    "v_head_dim": 128, "vocab_size": 163840,
}  # fmt: skip
TEXT_01: dict[str, Any] = {
    "model_type": "minimax_text_01", "architectures": ["MiniMaxText01ForCausalLM"],
    "attn_type_list": ([0] * 7 + [1]) * 10, "head_dim": 128, "hidden_act": "silu", "hidden_size": 6144,
    "intermediate_size": 9216, "layernorm_full_attention_alpha": ALPHA, "layernorm_full_attention_beta": 1.0,
    "layernorm_linear_attention_alpha": ALPHA, "layernorm_linear_attention_beta": 1.0, "layernorm_mlp_alpha": ALPHA,
    "layernorm_mlp_beta": 1.0, "max_position_embeddings": 10240000, "num_attention_heads": 64,
    "num_experts_per_tok": 2, "num_hidden_layers": 80, "num_key_value_heads": 8, "num_local_experts": 32,
    "output_router_logits": False, "postnorm": True, "rms_norm_eps": 1e-5, "rope_theta": 10000000, "rotary_dim": 64,
    "router_aux_loss_coef": 0.001, "router_jitter_noise": 0.0, "shared_intermediate_size": 0,
    "shared_moe_mode": "sigmoid", "sliding_window": None, "tie_word_embeddings": False, "vocab_size": 200064,
}  # fmt: skip


def made(kind: str, shared: Path, **changes: Any) -> Any:
    kwargs = json.loads((shared / "families" / "tiny_configs.json").read_text())[kind]["kwargs"]
    return reference(kind, {**kwargs, **changes})


@pytest.mark.parametrize("kind", TARGETS)
def test_adapters_on_every_projection(kind: str, shared: Path, extension: ModuleType, tmp_path: Path) -> None:
    """peft's are ours on both backends, and what we write of them is peft's again."""
    model = made(kind, shared)
    model.save_pretrained(tmp_path / "model")
    checkpoint = open_checkpoint(tmp_path / "model")
    assert_pefts_are_ours(model, checkpoint, TARGETS[kind], SEQUENCES, extension, tmp_path, same_file=False)


@pytest.mark.parametrize("kind", TARGETS)
def test_gradients_are_those_of_transformers(kind: str, shared: Path, tmp_path: Path) -> None:
    """Of every weight, over more than two chunks."""
    model = made(kind, shared)
    ours, decoder = load(*save(model, tmp_path, save_original_format=False))
    decoder.requires_grad_(True)
    weight = torch.randn(sum(map(len, SEQUENCES)), 128, generator=torch.Generator().manual_seed(0))
    (decoder(ForwardBatch.packed(SEQUENCES)) * weight).sum().backward()
    model.requires_grad_(True)
    found = torch.cat([model(input_ids=torch.tensor([ids]), use_cache=False).logits[0] for ids in SEQUENCES])
    (found * weight).sum().backward()
    theirs = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in decoder.named_parameters():
        if "choice_bias" in name:
            continue  # It chooses, and nothing is differentiable in that.
        expected = ours.sources[name].take(theirs)
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def _mixers(spec: ModelSpec, change: Callable[[Any], Any]) -> ModelSpec:
    return replace(spec, layers=tuple(replace(layer, mixer=change(layer.mixer)) for layer in spec.layers))


def _lightning(**changes: Any) -> Callable[[ModelSpec], ModelSpec]:
    return lambda spec: _mixers(spec, lambda one: replace(one, **changes) if isinstance(one, Lightning) else one)


def _layers(change: Callable[[int, LayerSpec], LayerSpec]) -> Callable[[ModelSpec], ModelSpec]:
    return lambda spec: replace(spec, layers=tuple(change(n, layer) for n, layer in enumerate(spec.layers)))


def _turned(one: Any) -> Any:
    return replace(one, rope=RopeSpec(10_000.0, one.rope_dim)) if isinstance(one, Mla) else one


WRONG_SPECS: dict[str, tuple[str, Callable[[ModelSpec], ModelSpec]]] = {
    "latents that turn": ("kimi_linear", lambda spec: _mixers(spec, _turned)),
    "fading of another layer": ("minimax", _lightning(fading=1.0)),
    "norm": ("minimax", _lightning(norm_eps=3e-3)),
    "plain residuals": ("minimax", _layers(lambda n, one: replace(one, residual=AfterNorm(1.0, 1.0, 1.0, 1.0)))),
}


@pytest.mark.parametrize("case", WRONG_SPECS)
def test_wrong_fields_show(case: str, shared: Path, tmp_path: Path) -> None:
    kind, change = WRONG_SPECS[case]
    model = made(kind, shared)
    ours, right = load(*save(model, tmp_path))
    theirs = reference_logits(model, SEQUENCES)
    assert worst(packed_logits(right, SEQUENCES), theirs) < 1e-4
    wrong = Decoder(change(ours.spec)).load(right.named_tensors())
    assert worst(packed_logits(wrong, SEQUENCES), theirs) > 1e-3


def uneven(tensor: Tensor) -> Tensor:
    return tensor * torch.linspace(0.3, 1.7, tensor.numel()).view_as(tensor)


@pytest.mark.parametrize("kind", TARGETS)
def test_every_weight_counts(kind: str, shared: Path, tmp_path: Path) -> None:
    ours, right = load(*save(made(kind, shared), tmp_path))
    exact = packed_logits(right, SEQUENCES)
    for leaf in sorted({name.split(".", 2)[2] for name, _ in right.named_tensors() if name.startswith("layers.")}):
        tensors = ((name, uneven(t) if name.endswith(leaf) else t) for name, t in right.named_tensors())
        assert worst(packed_logits(Decoder(ours.spec).load(tensors), SEQUENCES), exact) > 1e-3, leaf


def test_kimi_linear_as_the_hub_has_it(shared: Path, tmp_path: Path) -> None:
    """Its dense layer under the name of dense layers, its sizes and layers in an object of their own."""
    model = made("kimi_linear", shared)
    model.save_pretrained(tmp_path / "saved")
    saved = open_checkpoint(tmp_path / "saved")
    names = {name: name.replace("block_sparse_moe", "mlp") for name in saved.tensor_infos if "layers.0.block" in name}
    assert len(names) == 3
    config = {**KIMI_48B, **{key: value for key, value in saved.config.items() if key in KIMI_48B}}
    config |= {"num_hidden_layers": 4, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config |= {"linear_attn_config": {
        "full_attn_layers": [4], "kda_layers": [1, 2, 3], "head_dim": 16, "num_heads": 2, "short_conv_kernel_size": 4,
    }}  # fmt: skip
    assert read_config(config).spec == saved.spec
    write_checkpoint(tmp_path / "hub", config, read_config(config).sources, saved.tensors())
    written = load_file(tmp_path / "hub" / "model.safetensors")
    original = load_file(tmp_path / "saved" / "model.safetensors")
    assert {names.get(name, name): tuple(t.shape) for name, t in original.items()} == {
        name: tuple(tensor.shape) for name, tensor in written.items()
    }
    hub = open_checkpoint(tmp_path / "hub")
    for name, tensor in hub.tensors():
        torch.testing.assert_close(tensor, dict(saved.tensors())[name])
    import transformers

    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hub").eval()
    assert worst(reference_logits(again, SEQUENCES), reference_logits(model, SEQUENCES)) < 1e-5


def test_minimax_in_its_own_form(shared: Path, tmp_path: Path) -> None:
    """Text-01 and M1 say the same under other keys; in them a part of each head turns."""
    model = made("minimax", shared)
    config, tensors = save(model, tmp_path)
    own = {
        **{key: value for key, value in TEXT_01.items() if key not in config},
        **{key: config[key] for key in TEXT_01 if key in config},
        "rope_theta": 1e6, "attn_type_list": [0, 0, 0, 1], "model_type": "minimax_m1", "rotary_dim": 16,
    }  # fmt: skip
    family, decoder = load(own, {name: t for name, t in tensors.items() if "decay" not in name and "slope" not in name})
    assert family.spec == read_config(config).spec
    assert worst(packed_logits(decoder, SEQUENCES), reference_logits(model, SEQUENCES)) < 1e-4
    part = read_config({**own, "rotary_dim": 8}).spec
    assert [layer.mixer.rope and layer.mixer.rope.rotary_dim for layer in part.layers] == [None, None, None, 8]


def test_the_published_sizes() -> None:
    """Kimi-Linear-48B-A3B and MiniMax-Text-01 (456 billion, 45.9 of them for a token)."""
    kimi, minimax = read_config(KIMI_48B).spec, read_config(TEXT_01).spec
    counted = count(kimi)
    assert 48e9 < counted.total < 50e9 and 2.9e9 < counted.active < 3.7e9
    assert [type(layer.mixer) for layer in kimi.layers] == [*[Kda, Kda, Kda, Mla] * 6, Kda, Kda, Mla]
    assert kimi.layers[0].mixer.state_bytes == 4 * (32 * 128 * 128 + 3 * 3 * 4096)
    counted = count(minimax)
    in_layers = counted.active - 2 * minimax.vocab_size * minimax.d_model
    assert 456.0e9 < counted.total < 456.2e9 and 45.9e9 < in_layers < 46.0e9
    assert [type(layer.mixer) for layer in minimax.layers] == [*[Lightning] * 7, Gqa] * 10
    assert minimax.layers[0].mixer.state_bytes == 4 * 64 * 128 * 128


@pytest.mark.parametrize("kind", TARGETS)
def test_quantised_weights(kind: str, shared: Path, extension: ModuleType, tmp_path: Path) -> None:
    made(kind, shared).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    held = {name: held_as(name, tensor, "bfloat16") for name, tensor in checkpoint.stored().items()}
    kept = {name.rpartition("self_attn.")[2] for name, tensor in held.items() if tensor.block_type == "F32"}
    assert not any("proj" in name for name in kept)
    if kind == "kimi_linear":
        assert {"q_conv.weight", "k_conv.weight", "v_conv.weight", "a_log.weight", "dt_bias.weight"} <= kept
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    near = packed_logits(on_cpu(extension, decoder, "bfloat16"), [SEQUENCES[1]])  # type: ignore[arg-type]
    exact = packed_logits(decoder, [SEQUENCES[1]])
    assert 1e-4 < worst(near, exact) < 0.3 * exact[0].abs().max()


REFUSED: dict[str, tuple[dict[str, Any], Mapping[str, Any]]] = {
    "latents that turn": (KIMI_48B, {"mla_use_nope": False}),
    "a scaled rotation": (KIMI_48B, {"rope_scaling": {"type": "yarn", "factor": 4.0}}),
    "a layer twice": (KIMI_48B, {"linear_attn_config": {**KIMI_48B["linear_attn_config"], "full_attn_layers": [4, 1]}}),
    "an unknown key of the object": (
        KIMI_48B, {"linear_attn_config": {**KIMI_48B["linear_attn_config"], "gate_upper_bound": 5.0}}
    ),
    "another score": (KIMI_48B, {"moe_router_activation_func": "softmax"}),
    "norms before": (TEXT_01, {"postnorm": False}),
    "a window": (TEXT_01, {"sliding_window": 4096}),
    "a shared expert": (TEXT_01, {"shared_intermediate_size": 64}),
    "an unknown kind of layer": (TEXT_01, {"attn_type_list": ([0] * 7 + [2]) * 10}),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_they_are_not_is_refused(case: str) -> None:
    config, changes = REFUSED[case]
    with pytest.raises((CheckpointError, UnsupportedError)):
        read_config({**config, **changes})
