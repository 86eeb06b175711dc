"""Tiny models in every published quantised form, written by plain formulas: what is stored, and what it stands for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

Written = tuple[dict[str, Tensor], Tensor]
"""Tensors by what follows the module's name, and the values that they stand for."""
Writer = Callable[[Tensor], Written]

SIZES: dict[str, Any] = {
    "vocab_size": 260, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "pad_token_id": None,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENTS: dict[str, Any] = {
    **SIZES, "num_key_value_heads": 4, "head_dim": 16, "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16, "v_head_dim": 32, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
MODELS: dict[str, Callable[[], Any]] = {
    "dense": lambda: transformers.LlamaConfig(**SIZES),
    "experts": lambda: transformers.Qwen3MoeConfig(**SIZES, **EXPERTS),
    "latents": lambda: transformers.DeepseekV3Config(**LATENTS),
    "wide latents": lambda: transformers.DeepseekV3Config(**LATENTS | {"kv_lora_rank": 64}),
    "chosen latents": lambda: transformers.DeepseekV32Config(
        **LATENTS, index_topk=6, index_n_heads=16, index_head_dim=32
    ),
    "states": lambda: transformers.Qwen3NextConfig(
        **SIZES, **EXPERTS, shared_expert_intermediate_size=32, layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=16, linear_value_head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4,
    ),
    "gpt-oss": lambda: transformers.GptOssConfig(
        **SIZES, num_local_experts=4, num_experts_per_tok=2, sliding_window=8, rope_parameters=None
    ),
}  # fmt: skip
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
FP4 = [0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12]
GROUP = 32


def is_quantised(name: str) -> bool:
    return name.startswith("model.layers.") and name.endswith("_proj.weight")


def write_model(
    folder: Path, kind: str, settings: dict[str, Any], write: Writer, wanted: Callable[[str], bool] = is_quantised
) -> Any:
    """A tiny model in the form; returns transformers' own with the values that the files stand for. The parts of a
    tensor that is no module's weight follow its own name."""
    torch.manual_seed(0)
    config = MODELS[kind]()
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    plain = load_file(folder / "model.safetensors")
    stored: dict[str, Tensor] = {}
    for name, tensor in plain.items():
        if wanted(name):
            parts, values = write(tensor)
            module = name.removesuffix("weight")
            stored |= {f"{module}{leaf}": part for leaf, part in parts.items()}
            plain[name] = values
        else:
            stored[name] = tensor
    save_file({name: tensor.contiguous() for name, tensor in plain.items()}, folder / "model.safetensors")
    again = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, folder / "model.safetensors")
    change_settings(folder, settings)
    return again


def change_settings(folder: Path, settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))


def pack(numbers: Tensor, bits: int) -> Tensor:
    """Rows of numbers as int32 words, the first in the lowest bits."""
    width = -(-numbers.shape[1] * bits // 32) * 4
    rows = [sum(int(q) << bits * i for i, q in enumerate(row)).to_bytes(width, "little") for row in numbers.tolist()]
    return torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.int32).view(len(rows), -1).clone()


def largest(weight: Tensor, down: int, across: int) -> Tensor:
    """The largest magnitude in every block, repeated over it."""
    rows = []
    for i in range(0, weight.shape[0], down):
        cells = [weight[i : i + down, j : j + across] for j in range(0, weight.shape[1], across)]
        rows.append(torch.stack([cell.abs().max() for cell in cells]))
    return torch.stack(rows)


def repeated(entries: Tensor, weight: Tensor, down: int, across: int) -> Tensor:
    out = torch.empty_like(weight, dtype=torch.float32)
    for i in range(weight.shape[0]):
        for j in range(0, weight.shape[1], across):
            out[i, j : j + across] = entries[i // down, j // across].float()
    return out


def fp8(
    down: int | None,
    across: int | None,
    leaf: str,
    scales: torch.dtype = torch.float32,
    numbers: torch.dtype = torch.float8_e4m3fn,
) -> Writer:
    """Blocks of this size; None: all of an axis."""

    def write(weight: Tensor) -> Written:
        rows, columns = down or weight.shape[0], across or weight.shape[1]
        scale = (largest(weight, rows, columns) / 400).to(scales)
        spread = repeated(scale, weight, rows, columns)
        stored = (weight / spread).to(numbers)
        shaped = scale.reshape(()) if down is None and across is None else scale
        return {"weight": stored, leaf: shaped}, stored.float() * spread

    return write


def integers(weight: Tensor, bits: int, groups: Tensor, scales: torch.dtype, symmetric: bool) -> tuple[Tensor, ...]:
    """Numbers without sign [out, in], scales and zero points [out, groups], and the values."""
    count, top = int(groups.max()) + 1, 2**bits - 1
    scale, zero = torch.empty(weight.shape[0], count), torch.empty(weight.shape[0], count)
    for group in range(count):
        low, high = weight[:, groups == group].aminmax(dim=1)
        scale[:, group] = (high - low) / top if not symmetric else weight[:, groups == group].abs().amax(1) / (top / 2)
        zero[:, group] = (-low / scale[:, group]).round().clamp(1, top) if not symmetric else 2 ** (bits - 1)
    scale = scale.to(scales).float()
    number = (weight / scale[:, groups] + zero[:, groups]).round().clamp(0, top)
    return number.int(), scale, zero.int(), scale[:, groups] * (number - zero[:, groups])


def in_order(weight: Tensor, size: int | None) -> Tensor:
    return torch.arange(weight.shape[1]) // (size or weight.shape[1])


def shuffled(weight: Tensor, size: int | None) -> Tensor:
    """Alike for all matrices with as many inputs, as for those that read the same rows."""
    order = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(weight.shape[1]))
    return in_order(weight, size)[order]


def shuffled_alone(weight: Tensor, size: int | None) -> Tensor:
    """Each matrix in its own way."""
    return in_order(weight, size)[weight[0].argsort()]


def naive(bits: int, size: int | None, symmetric: bool = True) -> Writer:
    def write(weight: Tensor) -> Written:
        number, scale, zero, values = integers(weight, bits, in_order(weight, size), torch.bfloat16, symmetric)
        half = 2 ** (bits - 1)
        parts = {"weight": (number - half).to(torch.int8), "weight_scale": scale.bfloat16()}
        if not symmetric:
            parts["weight_zero_point"] = (zero - half).to(torch.int8)
        return parts, values

    return write


def packed(bits: int, size: int | None, symmetric: bool = True, reorder: bool = False) -> Writer:
    def write(weight: Tensor) -> Written:
        groups = shuffled(weight, size) if reorder else in_order(weight, size)
        number, scale, zero, values = integers(weight, bits, groups, torch.bfloat16, symmetric)
        parts = {"weight_packed": pack(number, bits), "weight_scale": scale.bfloat16()}
        parts["weight_shape"] = torch.tensor(weight.shape)
        if reorder:
            parts["weight_g_idx"] = groups.int()
        if not symmetric:
            parts["weight_zero_point"] = pack(zero.T, bits).T
        return parts, values

    return write


def pack_planes(numbers: Tensor, bits: int) -> Tensor:
    """The same in planes of bits: those of 32 numbers together, the lowest first."""
    planes = [width for width in (8, 4, 2, 1) if bits & width]
    words = []
    for at in range(0, numbers.shape[1], 32):
        left = numbers[:, at : at + 32].int()
        for width in planes:
            words.append(pack(left & (1 << width) - 1, width))
            left = left >> width
    return torch.cat(words, dim=1)


def gptq(
    bits: int,
    size: int | None,
    *,
    less: int,
    symmetric: bool = False,
    groups_of: Callable[[Tensor, int | None], Tensor] = in_order,
    listed: bool = False,
    pack: Callable[[Tensor, int], Tensor] = pack,
) -> Writer:
    """`groups_of`: the order of the groups. `listed`: written though they are in order."""

    def write(weight: Tensor) -> Written:
        groups = groups_of(weight, size)
        number, scale, zero, values = integers(weight, bits, groups, torch.float16, symmetric)
        parts = {"qweight": pack(number, bits).T, "scales": scale.T.half(), "qzeros": pack(zero.T - less, bits)}
        if groups_of is not in_order or listed:
            parts["g_idx"] = groups.int()
        return parts, values

    return write


def awq(bits: int) -> Writer:
    def write(weight: Tensor) -> Written:
        number, scale, zero, values = integers(weight, bits, in_order(weight, GROUP), torch.float16, False)
        order = list(range(weight.shape[0]))
        if bits == 4:
            order = [8 * word + output for word in range(weight.shape[0] // 8) for output in (0, 2, 4, 6, 1, 3, 5, 7)]
        codes = {"qweight": pack(number.T[:, order], bits), "qzeros": pack(zero.T[:, order], bits)}
        return codes | {"scales": scale.T.half()}, values

    return write


def hqq(bits: int, size: int, axis: int, words_as: torch.dtype | None = None) -> Writer:
    """`words_as`: the type whose bytes are said to be the words."""

    def write(weight: Tensor) -> Written:
        table = weight.reshape(-1, size) if axis else weight.reshape(size, -1)
        low, high = table.amin(axis, keepdim=True), table.amax(axis, keepdim=True)
        scale = ((high - low) / (2**bits - 1)).half()
        zero = (-low / scale.float()).half()
        number = (table / scale.float() + zero.float()).round().clamp(0, 2**bits - 1)
        per_word = 10 if bits == 3 else 8 // bits
        n_words = -(-len(number) // per_word)
        rows = torch.zeros(n_words * per_word, table.shape[1], dtype=torch.int32)
        rows[: len(number)] = number.int()
        stretches = [rows[i * n_words : (i + 1) * n_words] << bits * (per_word - 1 - i) for i in range(per_word)]
        words = sum(stretches[1:], stretches[0]).to(torch.int32 if bits == 3 else torch.uint8)
        parts = {
            "W_q": words if words_as is None else words.view(words_as),
            "scale": scale,
            "zero": zero,
            "packing": letters("3bit_32" if bits == 3 else f"{bits}bit_u8"),
            "shape": torch.tensor(weight.shape),
        }
        parts |= {
            name: torch.tensor(value, dtype=torch.int32) for name, value in (("axis", axis), ("group_size", size))
        }
        flags = {"channel_wise": 1, "quant_scale": 0, "quant_zero": 0, "encoded_state_dict": 1}
        parts |= {name: torch.tensor(value, dtype=torch.uint8) for name, value in flags.items()}
        return parts, ((number - zero.float()) * scale.float()).reshape(weight.shape)

    return write


def letters(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def nearest(values: Tensor, table: list[float]) -> Tensor:
    return (values[..., None] - torch.tensor(table)).abs().argmin(-1)


def in_halves(codes: Tensor) -> Tensor:
    """Two codes a byte, the first in the low half."""
    return (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)


def mxfp4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bytes [..., columns / 2], exponents [..., columns / 32], values."""
    blocks = weight.unflatten(-1, (-1, GROUP))
    exponent = (blocks.abs().amax(-1) / 6).log2().ceil() + 127
    scale = torch.exp2(exponent - 127)[..., None]
    codes = nearest(blocks / scale, E2M1)
    return in_halves(codes.flatten(-2)), exponent.to(torch.uint8), (torch.tensor(E2M1)[codes] * scale).flatten(-2)


def packed_mxfp4(weight: Tensor) -> Written:
    codes, exponents, values = mxfp4(weight)
    return {"weight_packed": codes, "weight_scale": exponents}, values


def joint_mxfp4(weight: Tensor) -> Written:
    """gpt-oss: the experts' matrices, which its other files have transposed."""
    codes, exponents, values = mxfp4(weight.transpose(1, 2))
    return {"_blocks": codes.unflatten(-1, (-1, 16)), "_scales": exponents}, values.transpose(1, 2)


def nvfp4(leaves: tuple[str, str, str], whole: float, inverse: bool) -> Writer:
    """`leaves`: codes, scales and the scale of all, by which they are multiplied or (`inverse`) divided."""

    def write(weight: Tensor) -> Written:
        blocks = weight.unflatten(-1, (-1, 16))
        factor = torch.tensor([1 / whole]) if inverse else torch.tensor(whole)
        scale = (blocks.abs().amax(-1) / 6 / whole).to(torch.float8_e4m3fn)
        spread = (scale.float() / factor if inverse else scale.float() * factor)[..., None]
        codes = nearest(blocks / spread, E2M1)
        values = (torch.tensor(E2M1)[codes] * spread).flatten(-2)
        return dict(zip(leaves, (in_halves(codes.flatten(-2)), scale, factor), strict=True)), values

    return write


def bits_and_bytes(kind: str, table: list[float], nested: bool, size: int = 64) -> Writer:
    def write(weight: Tensor) -> Written:
        blocks = weight.reshape(-1, size)
        absmax = blocks.abs().amax(1)
        state = {"quant_type": kind, "blocksize": size, "dtype": "bfloat16", "shape": list(weight.shape)}
        parts: dict[str, Tensor] = {}
        if nested:
            steps = torch.linspace(-1, 1, 256)
            offset = float(absmax.mean())
            own = (absmax - offset).split(256)
            of_scales = torch.stack([one.abs().max() for one in own])
            codes = torch.cat([nearest(one / top, steps.tolist()) for one, top in zip(own, of_scales, strict=True)])
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
            parts = {"weight.nested_absmax": of_scales, "weight.nested_quant_map": steps}
            absmax = steps[codes] * of_scales[torch.arange(len(codes)) // 256] + offset
            parts["weight.absmax"] = codes.to(torch.uint8)
        else:
            parts["weight.absmax"] = absmax
        codes = nearest(blocks / absmax[:, None], table).flatten()
        parts["weight"] = (codes[0::2] << 4 | codes[1::2]).to(torch.uint8)[:, None]
        parts["weight.quant_map"] = torch.tensor(table)
        text = bytearray(json.dumps(state).encode())
        parts[f"weight.quant_state.bitsandbytes__{kind}"] = torch.frombuffer(text, dtype=torch.uint8).clone()
        values = torch.tensor(table)[codes].view(-1, size) * absmax[:, None]
        return parts, values.view(weight.shape)

    return write


def bits_and_bytes_8(weight: Tensor) -> Written:
    top = weight.abs().amax(1)
    number = (weight / top[:, None] * 127).round().to(torch.int8)
    parts = {"weight": number, "SCB": top, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return parts, number.float() * top[:, None] / 127


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
