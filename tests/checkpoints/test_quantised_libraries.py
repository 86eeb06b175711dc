"""What the formats' own libraries write is read as they read it. A test is skipped where its library is missing."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from quantised_files import write_model
from quantised_forms import AUTO, AWQ, BNB, GPTQ, HQQ, compressed
from quantised_writers import GROUP, in_order, integers, shuffled
from test_quantised import logits, our_logits, write_gpt_oss
from torch import Tensor, nn

from landrace.checkpoints.checkpoint import open_checkpoint

SCHEMES: dict[str, tuple[str, dict[str, Any]]] = {
    "int4 by group": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": GROUP}),
    "int4 with zero points": (
        "pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": GROUP, "symmetric": False},
    ),
    "int3 by channel": ("pack-quantized", {"num_bits": 3, "strategy": "channel"}),
    "int8 by channel": ("int-quantized", {"num_bits": 8, "strategy": "channel"}),
    "int8 with a zero point": ("naive-quantized", {"num_bits": 8, "strategy": "tensor", "symmetric": False}),
    "fp8 by channel": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "fp8 by tensor": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}),
    "fp8 in blocks": (
        "float-quantized", {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [32, 32]},
    ),
    "nvfp4": (
        "nvfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
    ),
    "mxfp4": ("mxfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}),
}  # fmt: skip


@pytest.mark.parametrize("case", SCHEMES)
def test_compressed_tensors(case: str, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    form, arguments = SCHEMES[case]
    args = QuantizationArgs(**arguments)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    library = BaseCompressor.get_value_from_registry(form)

    def write(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        blocks = by_block(weight, arguments)
        low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
        extra: dict[str, Tensor] = {}
        if case == "nvfp4":
            extra["weight_global_scale"] = torch.tensor([6 * 448 / weight.abs().max()])
        scale, zero = calculate_qparams(low, high, args, global_scale=extra.get("weight_global_scale"))
        if arguments["strategy"] == "tensor":
            scale, zero = scale.reshape(1), zero.reshape(1)
        parts = {"weight": weight, "weight_scale": scale, **extra}
        if not args.symmetric:
            parts["weight_zero_point"] = zero
        stored = library.compress(parts, scheme)
        return stored, library.decompress(stored, scheme)["weight"].float()

    model = write_model(tmp_path, "dense", compressed(form, **arguments), write)
    # The library unpacks nvfp4 to bfloat16.
    atol = 2e-2 if case == "nvfp4" else 1e-4
    torch.testing.assert_close(our_logits(tmp_path), logits(model), atol=atol, rtol=1e-4)


def by_block(weight: Tensor, arguments: dict[str, Any]) -> Tensor:
    """[blocks down, rows of one, blocks across, columns of one]."""
    rows, columns = weight.shape
    down, across = {
        "tensor": (rows, columns),
        "channel": (1, columns),
        "block": (32, 32),
    }.get(arguments["strategy"], (1, arguments.get("group_size")))
    return weight.reshape(rows // down, down, columns // across, across)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_bitsandbytes(kind: str, nested: bool, tmp_path: Path) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")

    def write(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        # Rows are whole blocks: the library's own kernel for processors reads no others.
        codes, state = functional.quantize_4bit(weight, blocksize=32, quant_type=kind, compress_statistics=nested)
        parts = {f"weight.{name}": part for name, part in state.as_dict(packed=True).items()}
        return {"weight": codes, **parts}, functional.dequantize_4bit(codes, state)

    model = write_model(tmp_path, "dense", BNB | {"bnb_4bit_quant_type": kind}, write)
    torch.testing.assert_close(our_logits(tmp_path), logits(model), atol=1e-4, rtol=1e-4)
    kept = open_checkpoint(tmp_path).stored()["layers.0.self_attn.q_proj.weight"].block_type
    assert kept == f"{kind.upper()}_F32"


def test_bitsandbytes_of_8_bits(tmp_path: Path) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")

    def write(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        numbers, largest, _ = functional.int8_vectorwise_quant(weight.half())
        values = functional.int8_vectorwise_dequant(numbers, largest)
        return {"weight": numbers, "SCB": largest.float(), "weight_format": torch.tensor(0, dtype=torch.uint8)}, values

    model = write_model(tmp_path, "dense", {"quant_method": "bitsandbytes", "load_in_8bit": True}, write)
    torch.testing.assert_close(our_logits(tmp_path), logits(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("packing", ["auto_round", "auto_round:auto_gptq", "gptq"])
def test_auto_round(packing: str, bits: int, tmp_path: Path) -> None:
    """Its layers compute in float16, so they are asked for the rows of an identity."""
    pytest.importorskip("auto_round_extension.torch.qlinear_torch")
    from auto_round_extension.torch import qlinear_torch, qlinear_torch_zp

    library = (qlinear_torch if packing == "auto_round" else qlinear_torch_zp).QuantLinear

    def write(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        rows, columns = weight.shape
        low, high = weight.view(rows, -1, GROUP).aminmax(dim=2)
        scale = ((high - low) / (2**bits - 1)).half().float()
        zero = (-low / scale).round().clamp(1, 2**bits - 1)
        linear = nn.Linear(columns, rows, bias=False)
        linear.weight = nn.Parameter(weight.clone())
        layer = library(bits, GROUP, columns, rows, False)
        layer.device = torch.device("cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layer.pack(linear, scale, zero, None)
        values = layer(torch.eye(columns)).T.contiguous()
        return {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales")}, values

    settings = GPTQ if packing == "gptq" else AUTO | {"packing_format": packing}
    model = write_model(tmp_path, "dense", settings | {"bits": bits}, write)
    torch.testing.assert_close(our_logits(tmp_path), logits(model), atol=3e-3, rtol=1e-3)


def test_awq(tmp_path: Path) -> None:
    pytest.importorskip("auto_round.export.export_to_awq.utils")
    from auto_round.export.export_to_awq.utils import WQLinear_GEMM

    def write(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        rows, columns = weight.shape
        low, high = weight.view(rows, -1, GROUP).aminmax(dim=2)
        scale = ((high - low) / 15).half()
        zero = (-low / scale.float()).round().clamp(0, 15)
        groups = torch.arange(columns) // GROUP
        number = (weight / scale.float()[:, groups] + zero[:, groups]).round().clamp(0, 15)
        values = scale.float()[:, groups] * (number - zero[:, groups])
        linear = nn.Linear(columns, rows, bias=False)
        linear.weight = nn.Parameter(values)
        layer = WQLinear_GEMM.from_linear(linear, 4, GROUP, False, scale.T.contiguous(), zero.T.contiguous())
        return {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales")}, values

    model = write_model(tmp_path, "dense", AWQ, write)
    torch.testing.assert_close(our_logits(tmp_path), logits(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    ("form", "bits"),
    [("gptq", 2), ("gptq", 3), ("gptq", 4), ("gptq", 8), ("gptq_v2", 3), ("gptq_v2", 4), ("gptq_p", 3), ("gptq_p", 7)],
)
def test_gptq(form: str, bits: int, ordered: bool, tmp_path: Path) -> None:
    pytest.importorskip("gptqmodel")
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization import FORMAT, QuantizeConfig
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    config = QuantizeConfig(
        bits=bits, group_size=GROUP, desc_act=ordered, sym=False, format=FORMAT(form), offload_to_disk=False
    )

    def write(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        rows, columns = weight.shape
        groups = (shuffled if ordered else in_order)(weight, GROUP)
        _, scale, zero, values = integers(weight, bits, groups, torch.float16, False)
        linear = nn.Linear(columns, rows, bias=False)
        linear.weight = nn.Parameter(values)
        layer = TorchLinear(
            bits, GROUP, False, ordered, columns, rows, bias=False, pack_dtype=torch.int32, format=FORMAT(form),
            enable_wf_unsqueeze=True,
        )  # fmt: skip
        layer.pack_block(linear, scale, zero.float(), groups.int())
        stored = {name: getattr(layer, name).clone() for name in ("qweight", "qzeros", "scales", "g_idx")}
        layer.scales = layer.scales.float()
        values = layer.dequantize_weight().T.contiguous().clone()
        if form == "gptq":
            convert_gptq_v2_to_v1_format_module(layer, config)
            stored["qzeros"] = layer.qzeros.clone()
        return stored, values

    model = write_model(tmp_path, "dense", as_json(config.to_dict()), write)
    torch.testing.assert_close(our_logits(tmp_path), logits(model), atol=1e-4, rtol=1e-4)
    kept = open_checkpoint(tmp_path).stored()["layers.0.self_attn.q_proj.weight"].block_type
    assert kept == ("I4_F16" if bits <= 4 else "I8_F32")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_awq_of_gptqmodel(bits: int, tmp_path: Path) -> None:
    pytest.importorskip("gptqmodel")
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
    from gptqmodel.quantization import FORMAT, METHOD, QuantizeConfig
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    config = QuantizeConfig(
        bits=bits, group_size=GROUP, sym=False, quant_method=METHOD.AWQ, format=FORMAT.GEMM, offload_to_disk=False
    )

    def write(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        rows, columns = weight.shape
        _, scale, zero, values = integers(weight, bits, in_order(weight, GROUP), torch.float16, False)
        linear = nn.Linear(columns, rows, bias=False)
        linear.weight = nn.Parameter(values)
        layer = AwqTorchLinear(bits, GROUP, False, False, columns, rows)
        layer.pack(linear, scale.half(), zero.half())
        stored = {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales")}
        values = dequantize_gemm(stored["qweight"], stored["qzeros"], stored["scales"].float(), bits, GROUP)
        return stored, values.T.contiguous()

    model = write_model(tmp_path, "dense", as_json(config.to_dict()), write)
    torch.testing.assert_close(our_logits(tmp_path), logits(model), atol=1e-4, rtol=1e-4)


def test_awq_of_autoawq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package itself opens models of an older transformers; its layers do without."""
    found = importlib.util.find_spec("awq")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("autoawq is not installed")
    package = ModuleType("awq")
    package.__path__ = list(found.submodule_search_locations)
    monkeypatch.setitem(sys.modules, "awq", package)
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    def write(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        rows, columns = weight.shape
        _, scale, zero, values = integers(weight, 4, in_order(weight, GROUP), torch.float16, False)
        linear = nn.Linear(columns, rows, bias=False)
        linear.weight = nn.Parameter(values)
        scales, zeros = (part.T.contiguous().float() for part in (scale, zero))
        layer = WQLinear_GEMM.from_linear(linear, 4, GROUP, scales=scales, zeros=zeros)
        stored = {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales")}
        values = dequantize_gemm(stored["qweight"], stored["qzeros"], stored["scales"].float(), 4, GROUP)
        return stored, values.T.contiguous()

    model = write_model(tmp_path, "dense", AWQ, write)
    torch.testing.assert_close(our_logits(tmp_path), logits(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("as_floats", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_hqq(bits: int, axis: int, as_floats: bool, tmp_path: Path) -> None:
    pytest.importorskip("hqq.core.quantize")
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    config = BaseQuantizeConfig(nbits=bits, group_size=GROUP, axis=axis, view_as_float=as_floats)

    def write(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight = nn.Parameter(weight.clone())
        layer = HQQLinear(linear, config, compute_dtype=torch.float32, device="cpu", del_orig=False)
        stored = {name: part for name, part in layer.state_dict().items() if part is not None}
        return stored, layer.dequantize().clone()

    model = write_model(tmp_path, "dense", HQQ | {"quant_config": as_json(config)}, write)
    torch.testing.assert_close(our_logits(tmp_path), logits(model), atol=1e-4, rtol=1e-4)


def as_json(settings: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return found


def test_transformers_unpacks_gpt_oss_to_the_same(tmp_path: Path) -> None:
    import transformers

    write_gpt_oss(tmp_path)
    wanted = transformers.Mxfp4Config(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=wanted, attn_implementation="eager", dtype=torch.float32
    )
    torch.testing.assert_close(our_logits(tmp_path), logits(model.eval()), atol=1e-4, rtol=1e-4)
