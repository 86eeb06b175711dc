"""Adapters: slots, rows, a computation by hand, and peft."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import load, packed_logits, random_decoder, random_ids, reference, save, tiny_spec, worst
from torch import Tensor

from landrace.errors import CheckpointError, OptionError
from landrace.models.adapters import fresh_tensors
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.declared import shapes_of
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import PROJECTIONS, LoraSpec


def random_adapter(decoder: Decoder, spec: LoraSpec, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes_of(decoder.spec).items():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and module.rpartition(".")[2] in spec.targets:
            module = module.replace(".base", "")
            found[f"{module}.lora_A"] = torch.randn(spec.rank, shape[1], generator=generator)
            found[f"{module}.lora_B"] = 0.1 * torch.randn(shape[0], spec.rank, generator=generator)
    return found


def merged(decoder: Decoder, spec: LoraSpec, tensors: dict[str, Tensor]) -> Decoder:
    """The adapter by hand: W + scale * B A."""
    weights = dict(decoder.named_tensors())
    for name in {name.removesuffix(".lora_A") for name in tensors if name.endswith("lora_A")}:
        delta = tensors[f"{name}.lora_B"] @ tensors[f"{name}.lora_A"]
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + spec.scale * delta
    return Decoder(decoder.spec).load(weights.items())


@pytest.mark.parametrize("targets", [PROJECTIONS, ("q_proj", "v_proj"), ("down_proj",)])
@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_adds_its_product(targets: tuple[str, ...], rslora: bool) -> None:
    decoder = random_decoder(tiny_spec())
    spec = LoraSpec(rank=4, alpha=8.0, targets=targets, rslora=rslora)
    assert spec.scale == (4.0 if rslora else 2.0)
    tensors = random_adapter(decoder, spec, seed=1)
    expected = packed_logits(merged(decoder, spec, tensors), random_ids())
    plain = packed_logits(decoder, random_ids())
    slot = decoder.add_adapter(spec, tensors)
    batch = ForwardBatch.packed(random_ids(), adapters=(AdapterRows(slot, None),))
    with torch.no_grad():
        ours = list(decoder(batch).split([40, 23]))
    # Merged weights and a separate product round differently, in proportion to the logits.
    largest = max(logits.abs().max().item() for logits in expected)
    assert worst(ours, expected) < 1e-4 * largest
    assert worst(ours, plain) > 1e-2
    assert worst(packed_logits(decoder, random_ids()), plain) == 0


def test_rows_choose_their_adapter() -> None:
    """Base, two adapters, and strangers in one batch: each row as if alone."""
    decoder = random_decoder(tiny_spec())
    first, second = LoraSpec(4, 8.0), LoraSpec(2, 2.0, ("q_proj", "up_proj"))
    adapters = [random_adapter(decoder, first, 1), random_adapter(decoder, second, 2)]
    sequences = random_ids((11, 7, 9, 5))
    alone = [
        packed_logits(decoder, sequences[:1])[0],
        packed_logits(merged(decoder, first, adapters[0]), sequences[1:2])[0],
        packed_logits(merged(decoder, second, adapters[1]), sequences[2:3])[0],
        packed_logits(merged(decoder, first, adapters[0]), sequences[3:])[0],
    ]
    slots = [decoder.add_adapter(first, adapters[0]), decoder.add_adapter(second, adapters[1])]
    assert slots == [0, 1]
    rows = (
        AdapterRows(slots[0], torch.tensor([*range(11, 18), *range(27, 32)])),
        AdapterRows(slots[1], torch.arange(18, 27)),
    )
    with torch.no_grad():
        together = decoder(ForwardBatch.packed(sequences, adapters=rows)).split([11, 7, 9, 5])
    assert worst(list(together), alone) < 1e-4


def test_slots_come_and_go() -> None:
    decoder = random_decoder(tiny_spec())
    before = packed_logits(decoder, random_ids())
    names = set(dict(decoder.named_tensors()))
    spec = LoraSpec(2, 4.0, ("q_proj",))
    slots = [decoder.add_adapter(spec, random_adapter(random_decoder(tiny_spec()), spec, n)) for n in range(3)]
    assert slots == [0, 1, 2]
    decoder.remove_adapter(1)
    assert [place for place, _ in decoder.adapters.items()] == [0, 2]
    assert set(decoder.adapters[2].parameters()) == {
        f"layers.{n}.self_attn.q_proj.lora_{leaf}" for n in range(2) for leaf in "AB"
    }
    other = LoraSpec(2, 4.0, ("up_proj",))
    assert decoder.add_adapter(other, random_adapter(decoder, other, 3)) == 3
    for slot in (0, 2, 3):
        decoder.remove_adapter(slot)
    assert set(dict(decoder.named_tensors())) == names
    assert worst(packed_logits(decoder, random_ids()), before) == 0


def test_a_fresh_adapter_changes_nothing_and_learns() -> None:
    decoder = random_decoder(tiny_spec())
    before = packed_logits(decoder, random_ids())
    spec = LoraSpec(4, 8.0)
    start = fresh_tensors(decoder.adaptable(spec.targets), spec, torch.Generator().manual_seed(0))
    slot = decoder.add_adapter(spec, start)
    assert not any(parameter.requires_grad for parameter in decoder.parameters())
    parameters = decoder.adapters[slot].parameters()
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    batch = ForwardBatch.packed(random_ids(), adapters=(AdapterRows(slot, None),))
    logits = decoder(batch)
    assert worst(list(logits.split([40, 23])), before) == 0
    logits.logsumexp(-1).sum().backward()
    assert len(parameters) == 2 * 2 * 7
    for name, parameter in parameters.items():
        # B starts at zero, which hides A from the loss at first.
        assert (parameter.grad is not None and parameter.grad.abs().sum() > 0) == name.endswith("lora_B")
        if name.endswith("lora_A"):
            assert parameter.abs().max() <= parameter.shape[1] ** -0.5


def test_a_wrong_adapter_is_refused_and_leaves_no_trace() -> None:
    decoder = random_decoder(tiny_spec())
    spec = LoraSpec(2, 4.0, ("q_proj", "down_proj"))
    good = random_adapter(decoder, spec, 1)
    first = next(iter(good))
    for bad in (
        {name: tensor for name, tensor in good.items() if name != first},
        {**good, first: good[first][:, 1:]},
        {**good, "layers.0.self_attn.k_proj.lora_A": torch.zeros(2, 32)},
    ):
        with pytest.raises(CheckpointError):
            decoder.add_adapter(spec, bad)
    assert set(dict(decoder.named_tensors())) == set(dict(random_decoder(tiny_spec()).named_tensors()))
    for arguments in ({"rank": 0}, {"targets": ("lm_head",)}, {"targets": ()}):
        with pytest.raises(OptionError):
            LoraSpec(**{"rank": 2, "alpha": 4.0, **arguments})  # type: ignore[arg-type]


def test_against_peft(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    pytest.importorskip("transformers")
    sizes: dict[str, Any] = {
        "vocab_size": 112, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 80, "max_position_embeddings": 128, "initializer_range": 0.1,
    }  # fmt: skip
    model = reference("llama", sizes)
    _, decoder = load(*save(model, tmp_path))
    targets = ["q_proj", "k_proj", "o_proj", "gate_proj", "down_proj"]
    tuned = peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=16, target_modules=targets, use_rslora=True, init_lora_weights=False)
    )
    tensors = {}
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            tensors[name.removeprefix("base_model.model.model.").removesuffix(".default.weight")] = parameter.detach()
    slot = decoder.add_adapter(LoraSpec(4, 16.0, tuple(targets), rslora=True), tensors)
    sequences = random_ids()
    with torch.no_grad():
        theirs = [tuned(input_ids=torch.tensor([ids])).logits[0] for ids in sequences]
        whole = replace(ForwardBatch.packed(sequences), adapters=(AdapterRows(slot, None),))
        ours = list(decoder(whole).split([40, 23]))
    assert worst(ours, theirs) < 1e-4
    assert worst(packed_logits(decoder, sequences), theirs) > 1e-2
