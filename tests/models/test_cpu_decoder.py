"""The decoder on the C++ kernels against the one on the reference kernels, and its bits however it is called."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from cpu_models import (
    DYNAMIC,
    LONGROPE,
    MODELS,
    SPECS,
    Step,
    at_once,
    at_random,
    dequantised,
    on_cpu,
    spec_of,
    stepped,
    stored,
)
from test_lora import random_adapter
from tiny_models import packed_logits, random_decoder, random_ids, tiny_spec, with_delta, worst
from torch import Tensor

from landrace.errors import CheckpointError, OptionError
from landrace.kernels.layer_cache import INT4
from landrace.kernels.reference.quantising import quantize_weights
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.cpu_decoder import CpuDecoder
from landrace.models.decoder import Decoder
from landrace.models.families import read_config
from landrace.models.lora_spec import PROJECTIONS, LoraSpec
from landrace.models.mixer_spec import RopeSpec
from landrace.models.selection_spec import BlockSelection
from landrace.models.spec import ModelSpec
from landrace.models.stored import StoredTensor, Weights, held_as

TEXT_FAMILIES = (
    "llama", "smollm3", "qwen2", "qwen3", "glm", "glm4", "ernie4_5", "hunyuan_v1_dense", "seed_oss", "granite",
    "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3",
)  # fmt: skip
CACHES = (torch.float32, torch.bfloat16, torch.int8, INT4)


def check_against_reference(extension: ModuleType, isa: str, spec: ModelSpec) -> None:
    decoder = random_decoder(spec)
    sequences = random_ids((40, 23, 1))
    theirs = packed_logits(decoder, sequences)
    tolerance = 2e-5 * max(logits.abs().max().item() for logits in theirs)
    ours = on_cpu(extension, decoder, isa=isa)
    assert worst(packed_logits(ours, sequences), theirs) < tolerance  # type: ignore[arg-type]
    assert worst(stepped(ours, sequences, at_random(sequences, 1)), theirs) < tolerance


@pytest.mark.matrix
@pytest.mark.parametrize("name", MODELS)
def test_families_in_float32(extension: ModuleType, isa: str, name: str) -> None:
    check_against_reference(extension, isa, spec_of(name))


@pytest.mark.matrix
@pytest.mark.parametrize("name", SPECS)
def test_every_field_in_float32(extension: ModuleType, isa: str, name: str) -> None:
    check_against_reference(extension, isa, SPECS[name])


def test_shared_configurations_in_float32(extension: ModuleType, shared: Path) -> None:
    entries = json.loads((shared / "families" / "tiny_configs.json").read_text())
    specs = set()
    for model_type in TEXT_FAMILIES:
        entry = entries[model_type]
        for overrides in ({}, *(variant["override"] for variant in entry.get("variants", []))):
            specs.add(read_config({"model_type": model_type, **entry["kwargs"], **overrides}).spec)
    assert len(specs) > 15
    for spec in specs:
        check_against_reference(extension, extension.instruction_sets()[-1], spec)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights(extension: ModuleType, isa: str, dtype: torch.dtype) -> None:
    """Sixteen-bit weights stay what they are. Rows meet float16 in float32; for bfloat16 they are rounded to it."""
    exact = random_decoder(spec_of("qwen3"))
    rounded = Decoder(exact.spec).load((name, tensor.to(dtype).float()) for name, tensor in exact.named_tensors())
    held = {name: StoredTensor.of(tensor.to(dtype)) for name, tensor in exact.named_tensors()}
    ours = CpuDecoder(exact.spec, extension, threads=2, isa=isa).load(held)
    sequences = random_ids()
    theirs = packed_logits(rounded, sequences)
    assert relative_error(packed_logits(ours, sequences), theirs) < (1e-5 if dtype == torch.float16 else 0.01)
    assert ours.weight_bytes < 0.6 * on_cpu(extension, exact).weight_bytes


def relative_error(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Root mean square of the difference, over the standard deviation."""
    difference = torch.cat(ours) - torch.cat(theirs)
    return float(difference.square().mean().sqrt() / torch.cat(theirs).std())


@pytest.mark.matrix
@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("name", MODELS)
def test_quantised_weights(extension: ModuleType, isa: str, name: str, weights: Weights) -> None:
    """Rows of 8 bits cost as much as weights of 8 bits do, and no more."""
    decoder = random_decoder(spec_of(name))
    ours = on_cpu(extension, decoder, weights, isa=isa)
    theirs = packed_logits(dequantised(decoder, weights), random_ids())
    error = relative_error(packed_logits(ours, random_ids()), theirs)  # type: ignore[arg-type]
    plain = packed_logits(decoder, random_ids())
    assert 1e-5 < error < 1.3 * relative_error(packed_logits(dequantised(decoder, "int8"), random_ids()), plain) < 0.1
    if weights == "int4":
        assert relative_error(plain, theirs) > 3 * error, "the quantised model is another one"
    assert ours.weight_bytes < (0.55 if weights == "int8" else 0.45) * on_cpu(extension, decoder).weight_bytes


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("name", ["llama", "qwen2", "hunyuan", "latents"])
def test_quantised_caches(extension: ModuleType, isa: str, name: str, dtype: torch.dtype) -> None:
    decoder = random_decoder(spec_of(name))
    ours = on_cpu(extension, decoder, isa=isa)
    if (name, dtype) == ("latents", INT4):
        with pytest.raises(OptionError, match="latents"):
            ours.new_cache([32], dtype)
        return
    sequences = random_ids()
    error = relative_error(stepped(ours, sequences, at_random(sequences, 3), dtype), packed_logits(decoder, sequences))
    least, most = {
        torch.float32: (0, 1e-5), torch.bfloat16: (1e-5, 0.02), torch.int8: (1e-5, 0.03), INT4: (1e-3, 0.5)
    }[dtype]  # fmt: skip
    assert least <= error < most


def test_what_an_indexer_chooses_is_not_kept_in_four_bits(extension: ModuleType) -> None:
    ours = on_cpu(extension, random_decoder(tiny_spec(selection=BlockSelection(12, 5, 3))))
    with pytest.raises(OptionError, match="what positions are chosen by"):
        ours.new_cache([32], INT4)


@pytest.mark.matrix
@pytest.mark.parametrize("weights", ["stored", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("dtype", CACHES)
def test_the_same_bits_however_it_is_called(extension: ModuleType, weights: Weights, dtype: torch.dtype) -> None:
    """In any batch, cut anywhere, with any number of threads, in any instruction set."""
    sequences = random_ids((40, 1, 23, 31))
    for name in ("qwen2", "glm4", *(["minicpm3"] if dtype != INT4 else [])):
        decoder = random_decoder(spec_of(name))
        first: list[Tensor] = []
        for isa in extension.instruction_sets():
            for threads in (1, 3):
                ours = on_cpu(extension, decoder, weights, isa=isa, threads=threads)
                whole = stepped(ours, sequences, at_once(sequences), dtype)
                first = first or whole
                others = [
                    stepped(ours, sequences, [[step] for step in at_once(sequences)[0]], dtype),
                    *(stepped(ours, sequences, at_random(sequences, seed), dtype) for seed in range(2)),
                ]
                for other in (whole, *others):
                    assert all(torch.equal(a, b) for a, b in zip(other, first, strict=True)), (name, isa, threads)


@pytest.mark.parametrize("weights", ["stored", "int8"])
def test_states_have_the_same_bits_however_they_are_called(extension: ModuleType, weights: Weights) -> None:
    sequences = random_ids((40, 1, 70, 31))
    decoder = random_decoder(with_delta(tiny_spec(gate="channel")))
    first: list[Tensor] = []
    for isa in extension.instruction_sets():
        for threads in (1, 3):
            ours = on_cpu(extension, decoder, weights, isa=isa, threads=threads)
            first = first or stepped(ours, sequences, at_once(sequences))
            for seed in range(3):
                other = stepped(ours, sequences, at_random(sequences, seed))
                assert all(torch.equal(a, b) for a, b in zip(other, first, strict=True)), (isa, threads)


@pytest.mark.parametrize("rope", [DYNAMIC, LONGROPE], ids=["dynamic", "longrope"])
def test_tables_that_depend_on_length_keep_their_bits(extension: ModuleType, rope: RopeSpec) -> None:
    decoder = random_decoder(tiny_spec(rope=rope))
    sequences = random_ids((40, 12, 35, 17))
    ours = on_cpu(extension, decoder)
    whole = stepped(ours, sequences, at_once(sequences))
    for seed in range(6):
        other = stepped(ours, sequences, at_random(sequences, seed))
        assert all(torch.equal(a, b) for a, b in zip(other, whole, strict=True))


def test_a_growing_table_keeps_its_bits(extension: ModuleType) -> None:
    """Angles are computed anew when a sequence outgrows the table."""
    spec = replace(tiny_spec(), max_length=2048)
    decoder = random_decoder(spec)
    sequences = random_ids((9, 700))
    fresh, grown = on_cpu(extension, decoder), on_cpu(extension, decoder)
    short = stepped(grown, sequences, [[(0, 0, 9)]])[0]
    long = stepped(fresh, sequences, [[(1, 0, 700)]])[1]
    assert torch.equal(stepped(grown, sequences, [[(1, 0, 700)]])[1], long)
    assert torch.equal(stepped(grown, sequences, [[(0, 0, 9)]])[0], short)


ADAPTERS = (LoraSpec(4, 8.0), LoraSpec(3, 2.0, ("q_proj", "up_proj"), rslora=True), LoraSpec(8, 8.0, ("down_proj",)))


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["qwen2", "glm4", "granite", "latents, many heads"])
def test_adapters(extension: ModuleType, isa: str, name: str) -> None:
    """Several at once, each on its own rows of a batch, against adapters on the reference decoder."""
    decoder = random_decoder(spec_of(name))
    ours = on_cpu(extension, decoder, isa=isa)
    sequences = random_ids((11, 30, 9, 5, 17))
    plain = packed_logits(ours, sequences)  # type: ignore[arg-type]
    tensors = [random_adapter(decoder, spec, seed) for seed, spec in enumerate(ADAPTERS)]
    slots = [ours.add_adapter(spec, t) for spec, t in zip(ADAPTERS, tensors, strict=True)]
    reference_slots = [decoder.add_adapter(spec, t) for spec, t in zip(ADAPTERS, tensors, strict=True)]
    assert slots == reference_slots
    owners = {1: slots[0], 2: slots[1], 3: slots[0], 4: slots[2]}
    packed = ForwardBatch.packed(sequences)
    rows: dict[int, list[int]] = {}
    for s, slot in owners.items():
        rows.setdefault(slot, []).extend(range(packed.starts[s], packed.starts[s + 1]))
    batch = replace(packed, adapters=tuple(AdapterRows(slot, torch.tensor(own)) for slot, own in rows.items()))
    with torch.no_grad():
        theirs, mixed = decoder(batch), ours(batch)
    largest = theirs.abs().max().item()
    torch.testing.assert_close(mixed, theirs, rtol=0, atol=3e-5 * largest)
    assert torch.equal(mixed[:11], plain[0]), "rows without an adapter are as before"
    for s in owners:
        own = mixed[packed.starts[s] : packed.starts[s + 1]]
        assert worst([own], [plain[s]]) > 1e-3 * largest
        alone = ours(replace(ForwardBatch.packed([sequences[s]]), adapters=(AdapterRows(owners[s], None),)))
        assert torch.equal(own, alone)
    for steps in (at_random(sequences, 1), at_random(sequences, 2)):
        cut = stepped(ours, sequences, steps, torch.float32, owners)
        assert torch.equal(torch.cat(cut), mixed)


@pytest.mark.matrix
@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("name", ["qwen3", "minicpm3"])
def test_adapters_on_quantised_weights(extension: ModuleType, isa: str, name: str, weights: Weights) -> None:
    decoder = random_decoder(spec_of(name))
    spec = LoraSpec(4, 8.0, PROJECTIONS)
    tensors = random_adapter(decoder, spec, 1)
    ours, theirs = on_cpu(extension, decoder, weights, isa=isa), dequantised(decoder, weights)
    plain = relative_error(*(packed_logits(one, random_ids()) for one in (ours, theirs)))  # type: ignore[arg-type]
    batch = ForwardBatch.packed(random_ids(), adapters=(AdapterRows(ours.add_adapter(spec, tensors), None),))
    theirs.add_adapter(spec, tensors)
    with torch.no_grad():
        assert relative_error([ours(batch)], [theirs(batch)]) < 1.5 * plain < 0.1


def test_adapters_come_and_go(extension: ModuleType) -> None:
    decoder = random_decoder(spec_of("qwen3"))
    ours = on_cpu(extension, decoder, "int4")
    sequences = random_ids((7, 12))
    plain = packed_logits(ours, sequences)  # type: ignore[arg-type]
    first, second = (ours.add_adapter(spec, random_adapter(decoder, spec, 1)) for spec in ADAPTERS[:2])
    batch = replace(ForwardBatch.packed(sequences), adapters=(AdapterRows(second, None),))
    tuned = ours(batch)
    ours.remove_adapter(first)
    assert torch.equal(ours(batch), tuned)
    ours.remove_adapter(second)
    assert all(torch.equal(a, b) for a, b in zip(packed_logits(ours, sequences), plain, strict=True))  # type: ignore[arg-type]


def test_only_the_wanted_rows(extension: ModuleType) -> None:
    ours = on_cpu(extension, random_decoder(spec_of("qwen3")), "int4")
    sequences = random_ids((9, 5))
    whole = torch.cat(packed_logits(ours, sequences))  # type: ignore[arg-type]
    for wanted in ([8, 13, 2], [3], []):
        picked = ours(ForwardBatch.packed(sequences, logit_rows=torch.tensor(wanted, dtype=torch.long)))
        assert torch.equal(picked, whole[wanted])


def test_a_profile_computes_the_step(extension: ModuleType) -> None:
    ours = on_cpu(extension, random_decoder(spec_of("qwen3")), "int4")
    timings = ours.profile(ForwardBatch.packed(random_ids((9, 5))))
    assert {
        "embedding",
        "q_proj, k_proj, v_proj",
        "rope",
        "attention",
        "o_proj",
        "gate_proj, up_proj",
        "down_proj",
        "head",
    } == {n for n, _ in timings}
    assert all(seconds >= 0 for _, seconds in timings)


def test_a_token_that_is_no_number_spoils_its_own_sequence(extension: ModuleType, isa: str) -> None:
    """NaN in an embedding reaches that sequence's logits, from its place on, and no others."""
    for weights in ("stored", "int4"):
        decoder = random_decoder(spec_of("qwen3"))
        sequences = [[5, 6, 7, 8], [9, 5, 111, 10, 5], [6] * 20]
        clean = packed_logits(on_cpu(extension, decoder, weights, isa=isa), sequences)  # type: ignore[arg-type]
        tensors = stored(decoder, weights)
        values = decoder.embed_tokens.weight.clone()
        values[111, 3] = float("nan")
        tensors["embed_tokens.weight"] = StoredTensor.of(values) if weights == "stored" else quantised(values)
        ours = CpuDecoder(decoder.spec, extension, threads=2, isa=isa).load(tensors)
        steps: list[Step] = [[(0, 0, 4), (1, 0, 2), (2, 0, 20)], [(1, 2, 5)]]
        result = stepped(ours, sequences, steps, torch.float32)
        rest = slice(0, 111)  # a tied head has the NaN too
        assert torch.equal(result[0][:, rest], clean[0][:, rest])
        assert torch.equal(result[2][:, rest], clean[2][:, rest])
        assert torch.equal(result[1][:2, rest], clean[1][:2, rest])
        assert result[1][2:].isnan().all()


def quantised(values: Tensor) -> StoredTensor:
    """8-bit rows where a NaN became the scale of its block."""
    kept = held_as("embed_tokens.weight", StoredTensor.of(values.nan_to_num()), "int8")
    raw = kept.read().view(values.shape[0], -1, 34).clone()
    broken = values.view(values.shape[0], -1, 32).isnan().any(-1)
    raw[..., :2][broken] = torch.tensor([float("nan")]).half().view(torch.uint8)
    return StoredTensor(kept.block_type, kept.shape, lambda: raw.view(values.shape[0], -1))


def test_loading_is_strict(extension: ModuleType) -> None:
    decoder = random_decoder(tiny_spec())
    tensors = stored(decoder)
    for changed, message in (
        ({**tensors, "stranger": tensors["norm.weight"]}, "no place for the tensor 'stranger'"),
        ({name: t for name, t in tensors.items() if name != "norm.weight"}, r"lacks 1 tensors.*norm\.weight"),
        ({**tensors, "norm.weight": StoredTensor.of(torch.ones(33))}, r"\[33\].*\[32\]"),
    ):
        with pytest.raises(CheckpointError, match=message):
            CpuDecoder(decoder.spec, extension, threads=1).load(changed)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_weights_that_blocks_cannot_hold_are_refused_by_name(extension: ModuleType, weights: Weights) -> None:
    decoder = random_decoder(spec_of("qwen3"))
    broken = dict(decoder.named_tensors())
    broken["layers.1.mlp.up_proj.weight"] = broken["layers.1.mlp.up_proj.weight"].clone()
    broken["layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    ours = CpuDecoder(decoder.spec, extension, threads=2)
    for quantize in (ours.quantize_weights, quantize_weights):
        held = {name: held_as(name, StoredTensor.of(t), weights, quantize) for name, t in broken.items()}
        with pytest.raises(
            CheckpointError, match=rf"'layers\.1\.mlp\.up_proj\.weight' cannot be held as {weights}: .*NaN"
        ):
            CpuDecoder(decoder.spec, extension, threads=2).load(held)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_both_quantisers_hold_the_same(extension: ModuleType, weights: Weights) -> None:
    """Whatever the checkpoint stores: floats of every type, and blocks of another."""
    decoder = random_decoder(spec_of("qwen3"))
    ours = CpuDecoder(decoder.spec, extension, threads=2)
    values = decoder.embed_tokens.weight.detach()
    for tensor in (
        *(StoredTensor.of(values.to(dtype)) for dtype in (torch.float32, torch.float16, torch.bfloat16)),
        held_as("x", StoredTensor.of(values), "int8"),
        held_as("x", StoredTensor.of(values), "int4"),
    ):
        for name in ("embed_tokens.weight", "layers.0.mlp.up_proj.weight"):
            one, other = held_as(name, tensor, weights, ours.quantize_weights), held_as(name, tensor, weights)
            assert one.block_type == ("Q4_0" if weights == "int4" and name.startswith("layers") else "Q8_0")
            assert torch.equal(one.read(), other.read())


def test_what_it_cannot_do_is_refused(extension: ModuleType) -> None:
    with pytest.raises(OptionError, match="up to 512 channels, not 520"):
        CpuDecoder(tiny_spec(head_dim=520, rope=None), extension, threads=1)
    decoder = random_decoder(tiny_spec())
    ours = on_cpu(extension, decoder)
    with pytest.raises(OptionError, match="tiles of 16 tokens, and 17"):
        ours.new_cache([17])
    with pytest.raises((ValueError, OptionError), match="float64"):
        ours.new_cache([16], torch.float64)
    with pytest.raises(ValueError, match="no instruction set mmx"):
        on_cpu(extension, decoder, isa="mmx")
    with pytest.raises(IndexError, match="token 110 is not one of 110"):
        ours(ForwardBatch.packed([[3, 110]]))
    spec = LoraSpec(4, 8.0, ("q_proj",))
    with pytest.raises(CheckpointError, match="lacks"):
        ours.add_adapter(spec, {})


def test_the_cache_is_as_exact_as_the_weights(extension: ModuleType) -> None:
    decoder = random_decoder(spec_of("qwen3"))
    kinds: dict[Weights, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.float16, "int4": torch.float16}
    for weights, dtype in kinds.items():
        ours = on_cpu(extension, decoder, weights)
        assert ours.cache_dtype == dtype
        assert ours.new_cache([16])[0].keys.dtype == dtype
