"""A weight in every published quantised form by plain formulas: what is stored, and what it stands for."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor

Written = tuple[dict[str, Tensor], Tensor]
"""Tensors by what follows the module's name, and the values that they stand for."""
Writer = Callable[[Tensor], Written]

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
FP4 = [0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12]
GROUP = 32


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
