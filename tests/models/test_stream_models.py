"""Models with several residual streams from their own files: adapters, gradients, what a wrong field does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cpu_models import on_cpu
from safetensors.torch import load_file, save_file
from tiny_models import packed_logits, random_ids, reference, reference_logits, worst
from torch import Tensor

from landrace.checkpoints.adapter import read_adapter, write_adapter
from landrace.checkpoints.checkpoint import Checkpoint, open_checkpoint
from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.adapters import fresh_tensors
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.decoder import Decoder
from landrace.models.families import read_config
from landrace.models.lora_spec import LoraSpec
from landrace.models.spec import GatedStreams, Hyper, ModelSpec, Streams
from landrace.models.stored import held_as

peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

TARGETS = {
    "hy_v4": ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "gate_proj"],
    "qwen4_exp_text": [
        *("in_proj_qkv", "out_proj", "input_mix_weight_down", "input_mix_weight_up", "block_inject_weight")
    ],
}
SEQUENCES = random_ids()


def tiny(kind: str, shared: Path) -> dict[str, Any]:
    kwargs: dict[str, Any] = json.loads((shared / "families" / "tiny_configs.json").read_text())[kind]["kwargs"]
    return {**kwargs, **({} if kind == "hy_v4" else {"indexer_budget": 64})}


def saved(kind: str, shared: Path, folder: Path) -> tuple[Any, Checkpoint]:
    model = reference(kind, tiny(kind, shared))
    model.save_pretrained(folder)
    return model, open_checkpoint(folder)


def opened(checkpoint: Checkpoint) -> Decoder:
    return Decoder(checkpoint.spec).load(checkpoint.tensors())


def logits_with(decoder: Any, place: int) -> list[Tensor]:
    batch = replace(ForwardBatch.packed(SEQUENCES), adapters=(AdapterRows(place, None),))
    with torch.no_grad():
        return list(decoder(batch).split([len(ids) for ids in SEQUENCES]))


@pytest.mark.parametrize("kind", TARGETS)
def test_adapters_on_every_projection(kind: str, shared: Path, extension: ModuleType, tmp_path: Path) -> None:
    """peft's are ours on both backends, and what we write of them is peft's again."""
    model, checkpoint = saved(kind, shared, tmp_path / "model")
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=TARGETS[kind], init_lora_weights=False)
    tuned = peft.get_peft_model(model, config)
    tuned.save_pretrained(tmp_path / "adapter")
    theirs = [tuned(input_ids=torch.tensor([ids]), use_cache=False).logits[0].detach() for ids in SEQUENCES]
    spec, tensors, _ = read_adapter(tmp_path / "adapter", *checkpoint.adapter_sources)
    decoder = opened(checkpoint)
    for one in (decoder, on_cpu(extension, decoder, "float32")):
        assert worst(logits_with(one, one.add_adapter(spec, tensors)), theirs) < 1e-3 * theirs[0].abs().max()
    assert worst(packed_logits(decoder, SEQUENCES), theirs) > 1e-2
    write_adapter(tmp_path / "again", spec, tensors, checkpoint.adapter_sources[0], "base", {})
    before, after = (load_file(tmp_path / one / "adapter_model.safetensors") for one in ("adapter", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", TARGETS)
def test_gradients_are_those_of_transformers(kind: str, shared: Path, tmp_path: Path) -> None:
    """Of every weight that the logits depend on smoothly."""
    model = reference(kind, tiny(kind, shared))
    model.save_pretrained(tmp_path, save_original_format=False)
    checkpoint = open_checkpoint(tmp_path)
    decoder = opened(checkpoint)
    for parameter in decoder.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    weight = torch.randn(sum(map(len, SEQUENCES)), 128, generator=torch.Generator().manual_seed(0))
    (decoder(ForwardBatch.packed(SEQUENCES)) * weight).sum().backward()
    model.requires_grad_(True)
    found = torch.cat([model(input_ids=torch.tensor([ids]), use_cache=False).logits[0] for ids in SEQUENCES])
    (found * weight).sum().backward()
    theirs = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    seen = set()
    for name, parameter in decoder.named_parameters():
        source = checkpoint.sources[name]
        if source.tensor not in theirs:
            continue
        expected = source.part(theirs[source.tensor])
        seen.add(name.removeprefix("layers.1."))
        assert parameter.grad is not None
        torch.testing.assert_close(
            parameter.grad, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item(), msg=lambda m, n=name: n + m
        )
    streams = {name for name in seen if "_hc." in name or "hc_head" in name}
    assert len(streams) >= (9 if kind == "hy_v4" else 11), streams


def with_residual(spec: ModelSpec, change: Callable[[Any], Streams]) -> ModelSpec:
    return replace(spec, layers=tuple(replace(layer, residual=change(layer.residual)) for layer in spec.layers))


FLIPS: dict[str, tuple[str, Callable[[Hyper], Streams]]] = {
    "what is added to weights": ("hy_v4", lambda s: replace(s, form=replace(s.form, eps=0.1))),
    "what is added to a result's weights": ("hy_v4", lambda s: replace(s, form=replace(s.form, post_eps=0.1))),
    "factor on a result": ("hy_v4", lambda s: replace(s, form=replace(s.form, post_factor=1.9))),
}


@pytest.mark.parametrize("flip", FLIPS)
def test_one_wrong_field_shows(flip: str, shared: Path, tmp_path: Path) -> None:
    kind, change = FLIPS[flip]
    model, checkpoint = saved(kind, shared, tmp_path)
    theirs, right = reference_logits(model, SEQUENCES), opened(checkpoint)
    assert worst(packed_logits(right, SEQUENCES), theirs) < 1e-4
    wrong = Decoder(with_residual(checkpoint.spec, change)).load(right.named_tensors())
    assert worst(packed_logits(wrong, SEQUENCES), theirs) > 1e-3


WEIGHTS = {
    "hy_v4": (
        *("attn_hc.weights.weight", "mlp_hc.weights.base", "attn_hc.weights.scale", "hc_head.weights.weight", "sinks"),
        "g_proj",
    ),
    "qwen4_exp_text": ("attn_hc.norm", "mlp_hc.mix_down", "attn_hc.mix_up", "mlp_hc.inject", "hc_head.mix_up"),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_every_weight_of_streams_counts(kind: str, shared: Path, tmp_path: Path) -> None:
    model, checkpoint = saved(kind, shared, tmp_path)
    theirs, right = reference_logits(model, SEQUENCES), opened(checkpoint)
    for changed in WEIGHTS[kind]:
        tensors = ((name, t * 1.5 + 0.1 if changed in name else t) for name, t in right.named_tensors())
        assert worst(packed_logits(Decoder(checkpoint.spec).load(tensors), SEQUENCES), theirs) > 1e-3, changed


def test_what_weights_streams_is_not_quantised(shared: Path, extension: ModuleType, tmp_path: Path) -> None:
    _, checkpoint = saved("hy_v4", shared, tmp_path)
    held = {name: held_as(name, tensor, "int8") for name, tensor in checkpoint.stored().items()}
    assert all(tensor.block_type == "F32" for name, tensor in held.items() if "hc" in name)
    decoder = opened(checkpoint)
    exact = packed_logits(decoder, SEQUENCES)
    near = packed_logits(on_cpu(extension, decoder, "int8"), SEQUENCES)  # type: ignore[arg-type]
    # A few rows choose other positions or experts for what 8 bits round.
    difference = torch.cat(near) - torch.cat(exact)
    assert 1e-4 < difference.abs().median() < 0.03 * torch.cat(exact).std()


def test_hy4_as_its_vendor_publishes_it(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under other names than transformers writes, and with heads whose pairs turn and not their halves."""
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import apply_rotary_pos_emb_interleave
    from transformers.models.hy_v4 import modeling_hy_v4

    model, checkpoint = saved("hy_v4", shared, tmp_path)
    changes = {".hc_pre.hc_head.": ".hc_head.", "mlp.linear_gate": "mlp.gate_proj"}
    changes |= {f".hc_pre.hc_{one}_layer.": f".hc_{one}_layer.hc_pre." for one in ("attn", "mlp")}
    changes |= {"shared_experts.linear_gate": "shared_experts.gate_proj"}
    renamed = {}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        for written, published in changes.items():
            name = name.replace(written, published)
        renamed[name] = tensor
    assert "model.layers.0.hc_attn_layer.hc_pre.hc_fn" in renamed and "model.hc_head.hc_head_scale" in renamed
    (tmp_path / "published").mkdir()
    (tmp_path / "config.json").rename(tmp_path / "published" / "config.json")
    save_file(renamed, tmp_path / "published" / "model.safetensors")
    published = open_checkpoint(tmp_path / "published")
    decoder = opened(published)
    halves, ours = packed_logits(opened(checkpoint), SEQUENCES), packed_logits(decoder, SEQUENCES)
    monkeypatch.setattr(modeling_hy_v4, "apply_rotary_pos_emb", apply_rotary_pos_emb_interleave)
    theirs = reference_logits(model, SEQUENCES)
    assert worst(ours, theirs) < 1e-4 < 1e-2 < worst(halves, theirs)
    # An adapter's rows lie as those of the file, also under transformers' names.
    spec = LoraSpec(2, 4.0, ("q_b_proj", "kv_a_proj", "o_proj", "up_proj"))
    fresh = fresh_tensors(decoder.adaptable(spec.targets), spec)
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(t.shape, generator=generator) * 0.1 for name, t in fresh.items()}
    write_adapter(tmp_path / "adapter", spec, tensors, published.adapter_sources[0], "base", {})
    tuned = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    expected = [tuned(input_ids=torch.tensor([ids]), use_cache=False).logits[0].detach() for ids in SEQUENCES]
    read, found, _ = read_adapter(tmp_path / "adapter", *published.adapter_sources)
    assert worst(logits_with(decoder, decoder.add_adapter(read, found)), expected) < 1e-4


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "more streams than there is room for": ("hy_v4", {"hc_mult": 9}),
    "no streams": ("qwen4_exp_text", {"hc_count": 0}),
    "another gate": ("qwen4_exp_text", {"output_gate_type": "sigmoid"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_is_not_is_refused(case: str, shared: Path) -> None:
    kind, changes = REFUSED[case]
    with pytest.raises((CheckpointError, UnsupportedError)):
        read_config({"model_type": kind, **tiny(kind, shared), **changes})


def test_streams_are_facts_of_the_whole_model(shared: Path) -> None:
    assert isinstance(read_config({"model_type": "hy_v4", **tiny("hy_v4", shared)}).spec.streams, Hyper)
    found = read_config({"model_type": "qwen4_exp_text", **tiny("qwen4_exp_text", shared)}).spec.streams
    assert found == GatedStreams(2, 8)
