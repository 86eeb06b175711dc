"""Kimi-K3, which transformers does not have, from a folder as published: against formulas of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cpu_models import at_once, at_random, on_cpu, stepped
from kimi_k3_oracle import CONFIG, HEADS, TOWER, Oracle, tensors
from peft_adapters import logits_with
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import cached_logits, packed_logits, random_ids, worst
from torch import Tensor

from landrace.checkpoints.adapter import read_adapter, write_adapter
from landrace.checkpoints.checkpoint import Checkpoint, open_checkpoint
from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.activation import SWIGLU
from landrace.models.batch import ForwardBatch
from landrace.models.decoder import Decoder
from landrace.models.families import read_config
from landrace.models.ffn_spec import Latent
from landrace.models.lora_spec import PROJECTIONS, LoraSpec
from landrace.models.mixer_spec import Kda, Mla
from landrace.models.spec import AttentionResiduals, LayerSpec, ModelSpec
from landrace.quantize.importance import importance_of

SEQUENCES = random_ids((90, 23))


def wrapped(t: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """As the hub's file has it: beside a tower."""
    config = {
        "model_type": "kimi_k3", "architectures": ["KimiK3ForConditionalGeneration"], "text_config": CONFIG,
        "vision_config": {"patch_size": 14, "vt_hidden_size": 1152}, "media_placeholder_token_id": 3,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
    }  # fmt: skip
    found = {f"language_model.{name}": tensor for name, tensor in t.items()}
    return config, found | {name: torch.zeros(shape) for name, shape in TOWER.items()}


def opened(folder: Path, config: Mapping[str, Any], t: Mapping[str, Tensor]) -> Checkpoint:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in t.items()}, folder / "model.safetensors")
    return open_checkpoint(folder)


@torch.no_grad()
def oracle_logits(t: Mapping[str, Tensor], config: Mapping[str, Any] = CONFIG) -> list[Tensor]:
    exact = {name: tensor.double() for name, tensor in t.items()}
    return [Oracle(config, exact).logits(ids).float() for ids in SEQUENCES]


@pytest.mark.parametrize("form", ["with a tower", "text alone"])
def test_parity(form: str, extension: ModuleType, tmp_path: Path) -> None:
    t = tensors()
    checkpoint = opened(tmp_path, *(wrapped(t) if form == "with a tower" else (CONFIG, t)))
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    theirs = oracle_logits(t)
    served = on_cpu(extension, decoder, "float32")
    assert not served.slow
    assert {one.name for one in checkpoint.beside_text} == (set(TOWER) if form == "with a tower" else set())
    for one in (decoder, served):
        assert worst(packed_logits(one, SEQUENCES), theirs) < 1e-4  # type: ignore[arg-type]
    assert worst(cached_logits(decoder, SEQUENCES, prefill=17), theirs) < 1e-4


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_pieces_have_the_same_bits(weights: Any, extension: ModuleType, tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, CONFIG, tensors())
    served = on_cpu(extension, Decoder(checkpoint.spec).load(checkpoint.tensors()), weights)
    whole = stepped(served, SEQUENCES, at_once(SEQUENCES))
    for seed in range(3):
        assert all(map(torch.equal, whole, stepped(served, SEQUENCES, at_random(SEQUENCES, seed))))


def test_gradients_of_every_weight(tmp_path: Path) -> None:
    t = tensors()
    checkpoint = opened(tmp_path, CONFIG, t)
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors()).requires_grad_(True)
    weight = torch.randn(sum(map(len, SEQUENCES)), 112, generator=torch.Generator().manual_seed(0))
    (decoder(ForwardBatch.packed(SEQUENCES)) * weight).sum().backward()
    exact = {name: tensor.double().requires_grad_(True) for name, tensor in t.items()}
    (torch.cat([Oracle(CONFIG, exact).logits(ids) for ids in SEQUENCES]) * weight).sum().backward()
    theirs = {name: torch.zeros_like(one) if one.grad is None else one.grad for name, one in exact.items()}
    for name, parameter in decoder.named_parameters():
        if "choice_bias" in name:
            continue  # It chooses, and nothing is differentiable in that.
        expected = checkpoint.hub_sources[name].take(theirs).float()
        assert parameter.grad is not None
        near = 3e-4 * expected.abs().max().item() if expected.any() else 1e-6
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=near)


def test_importance_reaches_every_projection(tmp_path: Path) -> None:
    """Layer by layer, as `quantize` finds it."""
    checkpoint = opened(tmp_path, *wrapped(tensors()))
    found = importance_of(checkpoint, SEQUENCES).of_inputs
    assert found.keys() >= {f"{name}.weight" for name in Decoder(checkpoint.spec).adaptable(PROJECTIONS)}


def test_adapters_on_every_linear(extension: ModuleType, tmp_path: Path) -> None:
    """What an adapter says is what the formulas say with its products added to the weights."""
    t = tensors()
    checkpoint = opened(tmp_path, *wrapped(t))
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    places = decoder.adaptable(PROJECTIONS)
    linear = {name for name, one in decoder.named_tensors() if one.dim() > 1 and "layers" in name}
    other = {name for name in linear if name.endswith(("_conv.weight", "router.weight"))}
    assert {f"{name}.weight" for name in places} == linear - other
    generator, spec = torch.Generator().manual_seed(4), LoraSpec(2, 5.0, targets=PROJECTIONS)
    pairs: dict[str, Tensor] = {}
    for name, (*experts, n_out, n_in) in places.items():
        pairs[f"{name}.lora_A"] = torch.randn(*experts, 2, n_in, generator=generator) * 0.15
        pairs[f"{name}.lora_B"] = torch.randn(*experts, n_out, 2, generator=generator) * 0.15
    merged = {name: tensor.clone() for name, tensor in wrapped(t)[1].items()}
    for name in places:
        source = checkpoint.hub_sources[f"{name}.weight"]
        change = spec.scale * pairs[f"{name}.lora_B"] @ pairs[f"{name}.lora_A"]
        source.put(merged, source.take(merged) + change)
    theirs = oracle_logits({name.removeprefix("language_model."): one for name, one in merged.items()})
    write_adapter(tmp_path / "adapter", spec, pairs, checkpoint.adapter_sources[0], "base", {})
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        modules = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in file.keys()}  # noqa: SIM118
    assert {f"{name}.weight" for name in modules} <= checkpoint.tensor_infos.keys(), "the names of the hub's own code"
    spec, again, _ = read_adapter(tmp_path / "adapter", *checkpoint.adapter_sources)
    for one in (decoder, on_cpu(extension, decoder, "float32")):
        assert worst(logits_with(one, one.add_adapter(spec, again), SEQUENCES), theirs) < 3e-4
    assert worst(packed_logits(decoder, SEQUENCES), theirs) > 1e-2


QUANTISED = {
    "quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized", "quantization_status": "compressed",
    "global_compression_ratio": None, "kv_cache_scheme": None,
    "config_groups": {"group_0": {
        "format": "mxfp4-pack-quantized", "input_activations": None, "output_activations": None, "targets": ["Linear"],
        "weights": {
            "actorder": None, "block_structure": None, "dynamic": False, "group_size": 32, "num_bits": 4,
            "observer": "minmax", "observer_kwargs": {}, "scale_dtype": "torch.uint8", "strategy": "group",
            "symmetric": True, "type": "float", "zp_dtype": None,
        },
    }},
    "ignore": [
        "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*", "re:.*lm_head.*",
        "re:.*vision_tower.*", "re:.*mm_projector.*",
    ],
}  # fmt: skip
HALVES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def test_experts_in_4_bits(extension: ModuleType, tmp_path: Path) -> None:
    """As published: floats of 4 bits with a power of two for 32; all else is not quantised."""
    t, generator = tensors(), torch.Generator().manual_seed(2)
    config, stored = wrapped(t)
    for name in [name for name in t if ".experts." in name]:
        codes = torch.randint(0, 16, t[name].shape, generator=generator)
        scales = torch.randint(121, 124, (len(codes), codes.shape[1] // 32), generator=generator)
        signs = 1.0 - 2.0 * (codes >> 3)
        t[name] = signs * HALVES[codes & 7] * (scales - 127).float().exp2().repeat_interleave(32, 1)
        whole = f"language_model.{name}"
        del stored[whole]
        stored[f"{whole}_packed"] = (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8)
        stored[f"{whole}_scale"] = scales.to(torch.uint8)
    config["text_config"] = {**CONFIG, "quantization_config": QUANTISED}
    checkpoint = opened(tmp_path, config, stored)
    kinds = {name: one.block_type for name, one in checkpoint.stored().items()}
    assert {kind for name, kind in kinds.items() if ".experts." in name} == {"MXFP4"}
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    for one in (decoder, on_cpu(extension, decoder, "float32")):
        assert worst(packed_logits(one, SEQUENCES), oracle_logits(t)) < 3e-4  # type: ignore[arg-type]


def _layers(change: Callable[[LayerSpec], LayerSpec]) -> Callable[[ModelSpec], ModelSpec]:
    return lambda spec: replace(spec, layers=tuple(map(change, spec.layers)))


def _ffn(layer: LayerSpec, **changes: Any) -> LayerSpec:
    return replace(layer, ffn=replace(layer.ffn, activation=replace(layer.ffn.activation, **changes)))


def _bounds(layer: LayerSpec) -> LayerSpec:
    return replace(layer, ffn=replace(layer.ffn, activation=SWIGLU))


def _first_block(spec: ModelSpec) -> ModelSpec:
    layers = [replace(one, residual=AttentionResiduals(n % 3 == 0)) for n, one in enumerate(spec.layers)]
    return replace(spec, layers=tuple(layers))


WRONG: dict[str, Callable[[ModelSpec], ModelSpec]] = {
    "no bounds": _layers(_bounds),
    "another bound of gates": _layers(lambda one: _ffn(one, alpha=2.5)),
    "another bound of ups": _layers(lambda one: _ffn(one, limit=1.5)),
    "other blocks": _first_block,
    "no floor": _layers(
        lambda one: replace(one, mixer=replace(one.mixer, decay_floor=None)) if isinstance(one.mixer, Kda) else one
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_fields_show(case: str, tmp_path: Path) -> None:
    t = tensors()
    checkpoint = opened(tmp_path, CONFIG, t)
    wrong = Decoder(WRONG[case](checkpoint.spec)).load(checkpoint.tensors())
    assert worst(packed_logits(wrong, SEQUENCES), oracle_logits(t)) > 1e-3


def test_every_weight_counts(tmp_path: Path) -> None:
    """But those that weigh one sum alone, before the first layer."""
    checkpoint = opened(tmp_path, CONFIG, tensors())
    right = Decoder(checkpoint.spec).load(checkpoint.tensors())
    exact = packed_logits(right, SEQUENCES)
    for leaf in sorted({name.partition("layers.")[2].partition(".")[2] or name for name, _ in right.named_tensors()}):
        changed = (
            (name, one * torch.linspace(0.3, 1.7, one.numel()).view_as(one) if name.endswith(leaf) else one)
            for name, one in right.named_tensors()
        )
        assert worst(packed_logits(Decoder(checkpoint.spec).load(changed), SEQUENCES), exact) > 1e-3, leaf


def test_without_what_it_adds(tmp_path: Path) -> None:
    """Each of its additions can be left out of a configuration; all are, of Kimi-Linear's."""
    text = {key: value for key, value in CONFIG.items() if key not in ("attn_res_block_size", "hidden_act")}
    section = {**CONFIG["linear_attn_config"], "use_full_rank_gate": False, "gate_lower_bound": None}
    changes = {"linear_attn_config": section, "routed_expert_hidden_size": None, "mla_use_output_gate": False}
    spec, old = read_config(CONFIG).spec, read_config({**text, **changes}).spec
    kinds = [layer.mixer for layer in old.layers]
    assert all(one.low_rank_gate and one.decay_floor is None for one in kinds if isinstance(one, Kda))
    assert all(one.gate is None for one in kinds if isinstance(one, Mla))
    assert all(layer.ffn.activation == SWIGLU for layer in old.layers)
    assert spec.layers[1].ffn.latent == Latent(32) and old.layers[1].ffn.latent is None  # type: ignore[union-attr]
    starts = [isinstance(one.residual, AttentionResiduals) and one.residual.starts for one in spec.layers]
    assert starts == [True, False, True, False, True]
    unbound = read_config({**CONFIG, "activation_situ_linear_beta": None, "activation_situ_beta": None}).spec
    activation = unbound.layers[0].ffn.activation
    assert (activation.alpha, activation.limit) == (1.0, float("inf"))


def test_heads_as_many_as_their_decays(tmp_path: Path) -> None:
    """Decays without what the published file has behind them."""
    t = tensors()
    plain = {name: one[:HEADS] if name.endswith("A_log") else one for name, one in t.items()}
    first, second = (dict(opened(tmp_path / str(n), CONFIG, one).tensors()) for n, one in enumerate((t, plain)))
    assert all(torch.equal(first[name], second[name]) for name in first)


REFUSED: dict[str, Mapping[str, Any]] = {
    "latents that turn": {"mla_use_nope": False},
    "another activation": {"hidden_act": "gelu"},
    "an unknown key": {"attn_res_something": 1},
    "blocks of no layers": {"attn_res_block_size": 0},
    "a floor above zero": {"linear_attn_config": {**CONFIG["linear_attn_config"], "gate_lower_bound": 1.0}},
    "a gate of another kind": {"linear_attn_config": {**CONFIG["linear_attn_config"], "use_full_rank_gate": "both"}},
    "another score": {"moe_router_activation_func": "softmax"},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_is_not_is_refused(case: str) -> None:
    with pytest.raises((CheckpointError, UnsupportedError)):
        read_config({**CONFIG, **REFUSED[case]})
