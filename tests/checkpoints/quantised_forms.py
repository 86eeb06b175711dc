"""The published quantised forms: what a config.json says of each, and how a weight is written in it."""

from __future__ import annotations

from typing import Any

import torch
from quantised_writers import (
    FP4,
    GROUP,
    NF4,
    Writer,
    awq,
    bits_and_bytes,
    bits_and_bytes_8,
    fp8,
    gptq,
    hqq,
    naive,
    nvfp4,
    pack_planes,
    packed,
    packed_mxfp4,
    shuffled,
    shuffled_alone,
)


def compressed(form: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, **weights}, "input_activations": None}
    return {
        "quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group},
        "ignore": ["lm_head"], "kv_cache_scheme": None, "quantization_status": "compressed", "version": "0.11.0",
    }  # fmt: skip


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}
BLOCKS = FP8 | {"weight_block_size": [32, 32]}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False, "damp_percent": 0.1}
ACT_ORDER = GPTQ | {"desc_act": True}
AUTO = {"quant_method": "auto-round", "bits": 4, "group_size": GROUP, "sym": False, "iters": 200}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4", "producer": {"name": "modelopt"}}

HQQ = {
    "quant_method": "hqq",
    "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": GROUP, "axis": 1}, "offload_meta": False},
    "skip_modules": ["lm_head"],
}

FORMS: dict[str, tuple[dict[str, Any], Writer]] = {
    "fp8 in blocks": (BLOCKS, fp8(32, 32, "weight_scale_inv")),
    "fp8 in blocks, powers of two": (
        BLOCKS | {"scale_fmt": "ue8m0"},
        fp8(32, 32, "weight_scale_inv", torch.float8_e8m0fnu),
    ),
    "fp8 in blocks of another width": (FP8 | {"weight_block_size": [32, 48]}, fp8(32, 48, "weight_scale_inv")),
    "fp8 of 5 bits and 2": (
        BLOCKS | {"fmt": "e5m2"},
        fp8(32, 32, "weight_scale_inv", numbers=torch.float8_e5m2),
    ),
    "fp8 by tensor": (FP8, fp8(None, None, "weight_scale_inv")),
    "fbgemm": ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, fp8(1, None, "weight_scale")),
    "float-quantized": (compressed("float-quantized", num_bits=8, type="float"), fp8(1, None, "weight_scale")),
    "float-quantized in blocks": (
        compressed("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[32, 48]),
        fp8(32, 48, "weight_scale"),
    ),
    "int-quantized": (compressed("int-quantized", num_bits=8, strategy="channel"), naive(8, None)),
    "naive-quantized": (compressed("naive-quantized", num_bits=8, symmetric=False), naive(8, GROUP, False)),
    "pack-quantized": (compressed("pack-quantized", num_bits=4, group_size=GROUP), packed(4, GROUP)),
    "pack-quantized by channel": (compressed("pack-quantized", num_bits=4), packed(4, None)),
    "pack-quantized, zero points": (
        compressed("pack-quantized", num_bits=4, group_size=GROUP, symmetric=False),
        packed(4, GROUP, False),
    ),
    "pack-quantized, groups in any order": (
        compressed("pack-quantized", num_bits=4, group_size=GROUP, symmetric=False, actorder="group"),
        packed(4, GROUP, symmetric=False, reorder=True),
    ),
    "pack-quantized, narrow groups in any order": (
        compressed("pack-quantized", num_bits=4, group_size=16, actorder="group"),
        packed(4, 16, reorder=True),
    ),
    "pack-quantized, 8 bits": (compressed("pack-quantized", num_bits=8, group_size=GROUP), packed(8, GROUP)),
    "pack-quantized, 3 bits": (compressed("pack-quantized", num_bits=3, group_size=GROUP), packed(3, GROUP)),
    "mxfp4-pack-quantized": (compressed("mxfp4-pack-quantized", num_bits=4, type="float"), packed_mxfp4),
    "nvfp4-pack-quantized": (
        compressed("nvfp4-pack-quantized", num_bits=4, type="float", group_size=16),
        nvfp4(("weight_packed", "weight_scale", "weight_global_scale"), 1 / 300, True),
    ),
    "modelopt nvfp4": (MODELOPT, nvfp4(("weight", "weight_scale", "weight_scale_2"), 1 / 300, False)),
    "modelopt fp8": (MODELOPT | {"quant_algo": "FP8"}, fp8(None, None, "weight_scale")),
    "gptq": (GPTQ, gptq(4, GROUP, less=1)),
    "gptq, symmetric": (GPTQ | {"sym": True}, gptq(4, GROUP, less=1, symmetric=True)),
    "gptq, groups listed": (GPTQ, gptq(4, GROUP, less=1, listed=True)),
    "gptq, act-order": (ACT_ORDER, gptq(4, GROUP, less=1, groups_of=shuffled)),
    "gptq, act-order of each": (ACT_ORDER, gptq(4, GROUP, less=1, groups_of=shuffled_alone)),
    "gptq, act-order, 8 bits": (ACT_ORDER | {"bits": 8}, gptq(8, GROUP, less=1, groups_of=shuffled)),
    "gptq, act-order in narrow groups": (ACT_ORDER, gptq(4, 16, less=1, groups_of=shuffled)),
    "gptq, second version": (GPTQ | {"checkpoint_format": "gptq_v2"}, gptq(4, GROUP, less=0)),
    "gptq, one group": (GPTQ | {"group_size": -1}, gptq(4, None, less=1)),
    "gptq, 8 bits": (GPTQ | {"bits": 8}, gptq(8, GROUP, less=1)),
    "gptq, 3 bits": (GPTQ | {"bits": 3}, gptq(3, GROUP, less=1)),
    "gptq, 2 bits": (GPTQ | {"bits": 2}, gptq(2, GROUP, less=1)),
    "gptq, 5 bits in planes": (
        GPTQ | {"bits": 5, "checkpoint_format": "gptq_p", "format": "gptq_p", "method": "gptq"},
        gptq(5, GROUP, less=0, pack=pack_planes),
    ),
    "auto-round": (AUTO | {"packing_format": "auto_round:auto_gptq"}, gptq(4, GROUP, less=1)),
    "auto-round, own": (AUTO | {"packing_format": "auto_round"}, gptq(4, GROUP, less=0)),
    "auto-round, awq": (AUTO | {"packing_format": "auto_round:auto_awq"}, awq(4)),
    "awq": (AWQ, awq(4)),
    "awq, 3 bits": (AWQ | {"bits": 3, "format": "gemm", "method": "awq", "sym": False, "meta": {}}, awq(3)),
    "hqq": (HQQ, hqq(4, GROUP, 1)),
    "hqq by columns": (HQQ, hqq(2, GROUP, 0)),
    "hqq, 3 bits as floats": (HQQ, hqq(3, GROUP, 1, torch.float16)),
    "hqq, 1 bit": (HQQ, hqq(1, 16, 1)),
    "hqq, 8 bits": (HQQ, hqq(8, 64, 0)),
    "nf4": (BNB, bits_and_bytes("nf4", NF4, False)),
    "nf4, nested": (BNB | {"bnb_4bit_use_double_quant": True}, bits_and_bytes("nf4", NF4, True)),
    "fp4": (BNB | {"bnb_4bit_quant_type": "fp4"}, bits_and_bytes("fp4", [*FP4, *(-one for one in FP4)], False)),
    "fp4, nested": (
        BNB | {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
        bits_and_bytes("fp4", [*FP4, *(-one for one in FP4)], True),
    ),
    "another table of 16": (BNB, bits_and_bytes("nf4", sorted(NF4, reverse=True), False)),
    "int8 of bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, bits_and_bytes_8),
}
