"""Checkpoints in published quantised forms: opened by their folder, against transformers with the values they mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from quantised_files import is_quantised, write_model
from quantised_forms import FORMS
from quantised_writers import joint_mxfp4, letters
from safetensors.torch import load_file, save_file

from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.checkpoints.quantised.settings import matches
from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.cpu import native
from landrace.model import cpu_decoder, unpacked_notice
from landrace.models.batch import AdapterRows, CacheView, ForwardBatch
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import LoraSpec

ROUNDED = 0.01
"""What rounding the inputs of products to 8 bits may change of a logit, on average; they are about 0.5. It may send a
token that hesitates to another expert, so that no bound of one logit holds."""
IDS = list(range(3, 40))


def our_logits(folder: Path) -> torch.Tensor:
    checkpoint = open_checkpoint(folder)
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    with torch.no_grad():
        return decoder(ForwardBatch.packed([IDS]))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].float()


def cpu_logits(folder: Path) -> torch.Tensor:
    """On the C++ kernels."""
    extension = native()
    if extension is None:
        pytest.skip("the C++ kernels are not built")
    checkpoint = open_checkpoint(folder)
    decoder = cpu_decoder(checkpoint, extension, threads=1)
    layers = decoder.new_cache([64] * len(checkpoint.spec.cache_groups), torch.float32)
    view = CacheView.whole(layers, checkpoint.spec.cache_groups, torch.arange(len(IDS)), (torch.arange(len(IDS)),))
    batch = ForwardBatch(torch.tensor(IDS), torch.arange(len(IDS)), (0, len(IDS)), cache=view)
    return decoder(batch)


KEPT = {
    **dict.fromkeys(("fp8 in blocks", "fp8 in blocks, powers of two", "fp8 by tensor", "fbgemm"), "F8_F32"),
    **dict.fromkeys(("float-quantized", "modelopt fp8"), "F8_F32"),
    "fp8 of 5 bits and 2": "E5M2_F32",
    **dict.fromkeys(("pack-quantized", "pack-quantized by channel", "pack-quantized, zero points"), "I4_BF16"),
    "pack-quantized, 3 bits": "I4_BF16",
    **dict.fromkeys(
        ("gptq", "gptq, symmetric", "gptq, second version", "gptq, one group", "gptq, groups listed"), "I4_F16"
    ),
    **dict.fromkeys(("gptq, 2 bits", "gptq, 3 bits", "awq, 3 bits"), "I4_F16"),
    **dict.fromkeys(("auto-round", "auto-round, own", "auto-round, awq", "awq"), "I4_F16"),
    **dict.fromkeys(("int-quantized", "naive-quantized", "pack-quantized, 8 bits"), "I8_F32"),
    **dict.fromkeys(("gptq, 8 bits", "gptq, 5 bits in planes", "int8 of bitsandbytes"), "I8_F32"),
    **dict.fromkeys(("gptq, act-order", "gptq, act-order of each"), "I4_F16"),
    "gptq, act-order, 8 bits": "I8_F32",
    "pack-quantized, groups in any order": "I4_BF16",
    **dict.fromkeys(("nf4", "nf4, nested"), "NF4_F32"),
    **dict.fromkeys(("fp4", "fp4, nested"), "FP4_F32"),
    **dict.fromkeys(("nvfp4-pack-quantized", "modelopt nvfp4"), "NVFP4_F32"),
    "mxfp4-pack-quantized": "MXFP4",
}
"""The block types that forms are kept in; others are unpacked to float32."""
ROUNDING = ("I4", "I8", "MXFP4", "NVFP4")
"""How those begin whose products round the inputs."""


@pytest.mark.parametrize("kind", ["dense", "experts"])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_means_what_its_formula_says(form: str, kind: str, tmp_path: Path) -> None:
    model = write_model(tmp_path, kind, *FORMS[form])
    expected = logits(model)
    torch.testing.assert_close(our_logits(tmp_path), expected, atol=1e-4, rtol=1e-4)
    kept = KEPT.get(form, "F32")
    assert open_checkpoint(tmp_path).stored()["layers.0.self_attn.q_proj.weight"].block_type == kept
    if kept.startswith(ROUNDING):
        assert (cpu_logits(tmp_path) - expected).abs().mean() < ROUNDED
    else:
        torch.testing.assert_close(cpu_logits(tmp_path), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", ["gptq, act-order", "gptq, act-order of each"])
def test_an_order_costs_four_bytes_a_column(form: str, tmp_path: Path) -> None:
    """Matrices with the same share it; beside them an adapter reads rows as they are."""
    extension = native()
    if extension is None:
        pytest.skip("the C++ kernels are not built")
    held = {}
    for own in ("gptq", form):
        write_model(tmp_path / own, "dense", *FORMS[own])
        checkpoint = open_checkpoint(tmp_path / own)
        served = cpu_decoder(checkpoint, extension, threads=1)
        held[own] = sum(n_bytes for name, n_bytes in served.held_bytes.items() if "_proj" in name)
        assert unpacked_notice(checkpoint, served) is None
    widths = [64, 96] if form == "gptq, act-order" else [64] * 6 + [96]  # of a layer
    orders = widths if form == "gptq, act-order" else 2 * widths
    assert held[form] == held["gptq"] + 4 * sum(orders)
    reference = Decoder(checkpoint.spec).load(checkpoint.tensors())
    spec, generator = LoraSpec(rank=4, alpha=8.0, targets=("q_proj", "up_proj", "down_proj")), torch.Generator()
    tensors = {}
    for name, (n_out, n_in) in reference.adaptable(spec.targets).items():
        tensors[f"{name}.lora_A"] = torch.randn(4, n_in, generator=generator) * 0.1
        tensors[f"{name}.lora_B"] = torch.randn(n_out, 4, generator=generator) * 0.1
    found = []
    for decoder in (reference, served):
        adapters = (AdapterRows(decoder.add_adapter(spec, tensors), None),)
        found.append(decoder(ForwardBatch.packed([IDS], adapters=adapters)))
    assert (found[0] - found[1]).abs().mean() < ROUNDED
    assert (found[0] - our_logits(tmp_path / form)).abs().mean() > 3 * ROUNDED


def test_experts_in_an_order_of_their_own_are_unpacked(tmp_path: Path) -> None:
    extension = native()
    if extension is None:
        pytest.skip("the C++ kernels are not built")
    write_model(tmp_path, "experts", *FORMS["gptq, act-order"])
    checkpoint = open_checkpoint(tmp_path)
    stored = checkpoint.stored()
    assert stored["layers.0.mlp.experts.gate_proj.weight"].block_type == "F32"
    assert stored["layers.0.self_attn.q_proj.weight"].block_type == "I4_F16"
    told = unpacked_notice(checkpoint, cpu_decoder(checkpoint, extension, threads=1))
    # An expert's down projection has 32 inputs: one group.
    assert told is not None and "16 of its quantised matrices" in told


def test_heads_in_an_order_of_their_own_are_unpacked(tmp_path: Path) -> None:
    extension = native()
    if extension is None:
        pytest.skip("the C++ kernels are not built")
    expected = logits(write_model(tmp_path, "wide latents", *FORMS["gptq, act-order"]))
    assert (cpu_logits(tmp_path) - expected).abs().mean() < ROUNDED
    checkpoint = open_checkpoint(tmp_path)
    told = unpacked_notice(checkpoint, cpu_decoder(checkpoint, extension, threads=1))
    # kv_b_proj of both layers, and gates and ups of four experts.
    assert told is not None and "10 of its quantised matrices" in told


def write_gpt_oss(folder: Path) -> Any:
    settings = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    return write_model(folder, "gpt-oss", settings, joint_mxfp4, lambda name: name.endswith(("up_proj", "down_proj")))


@pytest.mark.parametrize("kind", ["latents", "states"])
@pytest.mark.parametrize("form", ["fp8 in blocks", "gptq", "awq", "nf4, nested", "gptq, act-order of each"])
def test_other_mixers_as_published(form: str, kind: str, tmp_path: Path) -> None:
    """Whose matrices are stored by head, interleaved or several in one."""
    expected = logits(write_model(tmp_path, kind, *FORMS[form]))
    torch.testing.assert_close(our_logits(tmp_path), expected, atol=1e-4, rtol=1e-4)
    if KEPT.get(form, "F32").startswith(ROUNDING):
        assert (cpu_logits(tmp_path) - expected).abs().mean() < ROUNDED
    else:
        torch.testing.assert_close(cpu_logits(tmp_path), expected, atol=1e-4, rtol=1e-4)


def test_an_indexer_as_published(tmp_path: Path) -> None:
    """Its matrices are quantised too, but for the weights of its heads."""

    def wanted(name: str) -> bool:
        plain = "weights_proj" in name
        return not plain and (is_quantised(name) or name.endswith(("wq_b.weight", "wk.weight")))

    expected = logits(write_model(tmp_path, "chosen latents", *FORMS["fp8 in blocks"], wanted))
    for ours in (our_logits(tmp_path), cpu_logits(tmp_path)):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_gpt_oss_as_published(tmp_path: Path) -> None:
    expected = logits(write_gpt_oss(tmp_path))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.stored()["layers.0.mlp.experts.gate_proj.weight"].block_type == "MXFP4"
    assert checkpoint.hub_sources["layers.0.mlp.experts.gate_proj.weight"].tensor.endswith("gate_up_proj")
    torch.testing.assert_close(our_logits(tmp_path), expected, atol=1e-4, rtol=1e-4)
    assert (cpu_logits(tmp_path) - expected).abs().mean() < ROUNDED


UNDAMAGED = ("weight_format", "g_idx", "encoded_state_dict", "_bias")
"""Parts that may be left out, of which `test_groups_that_do_not_exist` damages the second, and what is no part."""


DAMAGED = (*FORMS, "gpt-oss")


@pytest.mark.parametrize("form", DAMAGED)
def test_damage_is_one_clear_error(form: str, tmp_path: Path) -> None:
    """Each part of a matrix taken away, cut short, of another type, or with scales that are NaN."""
    if form == "gpt-oss":
        write_gpt_oss(tmp_path)
        module = "model.layers.1.mlp.experts.gate_up_proj_"
    else:
        write_model(tmp_path, "dense", *FORMS[form])
        module = "model.layers.1.mlp.up_proj."
    file = tmp_path / "model.safetensors"
    whole = load_file(file)
    for name in [name for name in whole if name.startswith(module) and not name.endswith(UNDAMAGED)]:
        for damaged in damages(whole[name], of_scales=not name.endswith("W_q")):
            left = {other: tensor for other, tensor in whole.items() if other != name}
            save_file(left if damaged is None else {**left, name: damaged}, file)
            with pytest.raises((CheckpointError, UnsupportedError)):
                our_logits(tmp_path)
    save_file(whole, file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError):
        our_logits(tmp_path)


def damages(tensor: torch.Tensor, of_scales: bool) -> Iterator[torch.Tensor | None]:
    yield None
    if tensor.dim() and len(tensor) > 1:
        yield tensor[:-1].clone()
    yield tensor.reshape(-1).view(torch.uint8).to(torch.float64)
    if of_scales and tensor.dtype in (
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e8m0fnu,
    ):
        bits = tensor.clone().reshape(-1)
        bits[0] = float("nan")
        yield bits.view(tensor.shape)


REFUSED: dict[str, tuple[str, Any]] = {
    "another method": ("awq", {"quant_method": "quip"}),
    "no method": ("awq", {"bits": 4}),
    "a cache with scales": ("pack-quantized", {"kv_cache_scheme": {"num_bits": 8, "type": "float"}}),
    "a cache in fp8": ("modelopt nvfp4", {"kv_cache_quant_algo": "FP8"}),
    "another kernel's order": ("awq", {"version": "gemv"}),
    "another width": ("awq", {"bits": 9}),
    "Marlin's order": ("gptq", {"is_marlin_format": True}),
    "an unknown version": ("gptq", {"checkpoint_format": "gptq_v3"}),
    "sparse weights": ("int-quantized", {"sparsity_config": {"format": "sparse-24-bitmask"}}),
    "rotated weights": ("int-quantized", {"transform_config": {"config_groups": {"R1": {}}}}),
    "another format": ("int-quantized", {"format": "marlin-24"}),
    "other floats": ("fp8 in blocks", {"fmt": "e3m4"}),
    "another packing": ("auto-round", {"packing_format": "auto_round:other"}),
    "another storage": ("nf4", {"bnb_4bit_quant_storage": "bfloat16"}),
    "an unknown field": ("gptq", {"new_trick": 3}),
}
WRONG: dict[str, tuple[str, Any]] = {
    "no group for a module": ("pack-quantized", {"config_groups": {"g": {"targets": ["Other"], "weights": {}}}}),
    "no groups": ("pack-quantized", {"config_groups": None}),
    "groups that are none": ("pack-quantized", {"config_groups": {"g": 3}}),
    "a bad expression": ("pack-quantized", {"config_groups": {"g": {"targets": ["re:("], "weights": {"num_bits": 4}}}}),
    "bits": ("pack-quantized", {"config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 40}}}}),
    "other bits": ("pack-quantized", {"config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 8}}}}),
    "blocks": ("fp8 in blocks", {"weight_block_size": [0, 32]}),
    "blocks that do not fit": ("fp8 in blocks", {"weight_block_size": [16, 16]}),
    "an order that is missing": ("gptq", {"desc_act": True}),
}


@pytest.mark.parametrize("case", [*REFUSED, *WRONG])
def test_settings_that_cannot_be_honoured_are_named(case: str, tmp_path: Path) -> None:
    form, changes = {**REFUSED, **WRONG}[case]
    settings, write = FORMS[form]
    changed = changes if "method" in case else settings | changes
    write_model(tmp_path, "dense", changed, write)
    with pytest.raises(UnsupportedError if case in REFUSED else CheckpointError) as caught:
        our_logits(tmp_path)
    if case in REFUSED and case != "no method":
        assert next(iter(changes)) in str(caught.value) or str(next(iter(changes.values()))) in str(caught.value)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)*$", ".*a.*a.*a.*b", "(a*){9}b", r"\\(a+)+b"])
def test_expressions_that_could_take_for_ever_are_refused(pattern: str) -> None:
    with pytest.raises(UnsupportedError, match="for ever"):
        matches("model." + "a" * 60, f"re:{pattern}")


@pytest.mark.parametrize(
    ("pattern", "module", "expected"),
    [
        (".*lm_head", "lm_head", True),
        (r".*mlp\.gate$", "model.layers.3.mlp.gate", True),
        (r".*mlp\.gate$", "model.layers.3.mlp.gate_proj", False),
        (
            r"model\.layers\.[0-9]+\.mlp\.experts\..*\.(gate|up|down)_proj",
            "model.layers.10.mlp.experts.7.up_proj",
            True,
        ),
        ("visual.*", "model.layers.0.self_attn.q_proj", False),
    ],
)
def test_expressions_of_published_files(pattern: str, module: str, expected: bool) -> None:
    assert matches(module, f"re:{pattern}") is expected


HOSTILE: dict[str, tuple[str, torch.Tensor, type[Exception]]] = {
    "a packing that is none": ("packing", letters("4bit_u9"), UnsupportedError),
    "a long packing": ("packing", letters("4bit_u8" * 100), CheckpointError),
    "bytes that are no letters": ("packing", torch.full((7,), 255, dtype=torch.uint8), UnsupportedError),
    "another axis": ("axis", torch.tensor(2), CheckpointError),
    "no group": ("group_size", torch.tensor(0), CheckpointError),
    "a group of none": ("group_size", torch.tensor(-32), CheckpointError),
    "a group that does not fit": ("group_size", torch.tensor(37), CheckpointError),
    "a negative shape": ("shape", torch.tensor([-96, -64]), CheckpointError),
    "a vast shape": ("shape", torch.tensor([1 << 62, 1 << 62]), CheckpointError),
    "another shape": ("shape", torch.tensor([64, 96]), CheckpointError),
    "quantised scales": ("quant_scale", torch.tensor(1), UnsupportedError),
    "quantised zero points": ("quant_zero", torch.tensor(1), UnsupportedError),
    "one scale for all": ("channel_wise", torch.tensor(0), CheckpointError),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_settings_of_hqq_beside_the_weights(case: str, tmp_path: Path) -> None:
    leaf, value, error = HOSTILE[case]
    write_model(tmp_path, "dense", *FORMS["hqq"])
    whole = load_file(tmp_path / "model.safetensors")
    save_file({**whole, f"model.layers.1.mlp.up_proj.{leaf}": value}, tmp_path / "model.safetensors")
    with pytest.raises(error, match=r"up_proj"):
        our_logits(tmp_path)


@pytest.mark.parametrize("settings", ["int4", ["fp8"], 4])
def test_settings_that_are_no_object(settings: Any, tmp_path: Path) -> None:
    write_model(tmp_path, "dense", settings, FORMS["awq"][1])
    with pytest.raises(CheckpointError, match="how the model is quantised"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("form", ["gptq, act-order", "pack-quantized, groups in any order"])
@pytest.mark.parametrize("group", [-1, 4000])
def test_groups_that_do_not_exist(form: str, group: int, tmp_path: Path) -> None:
    write_model(tmp_path, "dense", *FORMS[form])
    whole = load_file(tmp_path / "model.safetensors")
    (name,) = (name for name in whole if name.startswith("model.layers.1.mlp.up_proj.") and name.endswith("g_idx"))
    whole[name][3] = group
    save_file(whole, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="names groups"):
        our_logits(tmp_path)
