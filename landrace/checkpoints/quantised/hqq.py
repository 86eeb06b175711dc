"""HQQ: numbers of 1 to 8 bits with a scale and a zero point for each group, which need not be whole.

All weights in order are cut into a table: a group is a row of it (`axis` 1, [groups, size]) or a column (`axis` 0,
[size, groups]). Of `X.W_q`, a word has so many rows' numbers as fit into it, those of the first stretch of rows in its
highest bits. A value is (number - `X.zero`) * `X.scale`. What the library knows of the layer lies beside it, each in a
tensor of its own (its `HQQLinear.state_dict`; Badri and Shaji, 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from landrace.checkpoints.quantised.parts import Parts, finite, require
from landrace.checkpoints.tensor_info import TensorInfo
from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.families.config import Config, shown

_MOST_NUMBERS = 64
"""Of a setting."""
_NO_EFFECT = (
    *("nbits", "unpack_view_dtype", "view_as_float", "compute_dtype", "offload_meta", "encoded_state_dict"),
    *("stores_quant_config", "optimize", "round_zero"),
)


@dataclass(frozen=True)
class _Packing:
    bits: int
    numbers: int
    """In a word."""
    word: torch.dtype


_PACKINGS = {
    "8bit_u8": _Packing(8, 1, torch.uint8),
    "4bit_u8": _Packing(4, 2, torch.uint8),
    "3bit_32": _Packing(3, 10, torch.int32),
    "2bit_u8": _Packing(2, 4, torch.uint8),
    "1bit_u8": _Packing(1, 8, torch.uint8),
}


def read_hqq(settings: Config, parts: Parts) -> None:
    """Reads every module with a `W_q`."""
    settings.finish((r"quant_method|quant_config|skip_modules|modules_to_not_convert",))
    for module in parts.named(".W_q"):
        _put(parts, module)


@dataclass(frozen=True)
class _Table:
    packing: _Packing
    width: int
    """Numbers of a row."""
    words: TensorInfo
    scale: TensorInfo
    zero: TensorInfo
    by_row: bool
    """Whether each row has its own scale and zero point; otherwise each column, or all share one."""

    def matrix_rows(self, n_in: int, first: int, end: int) -> Tensor:
        """Rows [first, end) of the matrix, which are a stretch of the table's."""
        start, stop = first * n_in // self.width, -(-end * n_in // self.width)
        words = self.words.load().view(self.packing.word)
        rows = torch.arange(start, stop)
        shifts = self.packing.bits * (self.packing.numbers - 1 - rows // len(words))
        numbers = words[rows % len(words)] >> shifts[:, None].to(words.dtype) & (1 << self.packing.bits) - 1
        scale, zero = finite(self.scale), finite(self.zero)
        if self.by_row:
            scale, zero = scale[start:stop], zero[start:stop]
        values = numbers.float().sub_(zero).mul_(scale).flatten()
        return values[first * n_in - start * self.width :][: (end - first) * n_in].view(-1, n_in)


def _put(parts: Parts, module: str) -> None:
    words, scale, zero = (parts.take(f"{module}.{leaf}", module) for leaf in ("W_q", "scale", "zero"))
    name = "".join(map(chr, _numbers(parts, f"{module}.packing")))
    if name not in _PACKINGS:
        raise UnsupportedError(f"'{module}' is packed as {shown(name)}, which is not one of {', '.join(_PACKINGS)}.")
    packing = _PACKINGS[name]
    n_out, n_in = _numbers(parts, f"{module}.shape", 2)
    axis, size, grouped, of_scales, of_zeros = (
        _numbers(parts, f"{module}.{leaf}", 1)[0]
        for leaf in ("axis", "group_size", "channel_wise", "quant_scale", "quant_zero")
    )
    if of_scales or of_zeros:
        raise UnsupportedError(f"'{module}' has quantised scales or zero points, which are not implemented.")
    for leaf in _NO_EFFECT:
        parts.take_if(f"{module}.{leaf}")
    count = n_out * n_in
    if axis not in (0, 1) or min(n_out, n_in, size) < 1 or count % size:
        raise CheckpointError(
            f"'{module}' says {n_out} x {n_in} values in groups of {size} along axis {axis}, which is no matrix."
        )
    width = n_in if not grouped else size if axis else count // size
    n_rows = count // width
    n_words = -(-n_rows // packing.numbers)
    whole = n_rows % packing.numbers == 0 or packing.bits == 3
    if not whole or words.shape[:1] != (n_words,) or words.nbytes != n_words * width * packing.word.itemsize:
        raise CheckpointError(
            f"'{words.name}' is {words.dtype} {list(words.shape)}, not {n_rows} x {width} numbers as {name}."
        )
    for info in (scale, zero):
        require(info, info.shape if not grouped else (n_rows, 1) if axis else (1, width), "F16", "BF16", "F32")
        if not grouped and math.prod(info.shape) != 1:
            raise CheckpointError(f"'{info.name}' has the shape {list(info.shape)}, but it must be one number.")
    table = _Table(packing, width, words, scale, zero, by_row=bool(grouped and axis))
    parts.put(f"{module}.weight", "F32", (n_out, n_in), partial(table.matrix_rows, n_in))


def _numbers(parts: Parts, name: str, count: int | None = None) -> list[int]:
    """A setting that is kept as whole numbers."""
    info = parts.take(name, name.rpartition(".")[0])
    size = math.prod(info.shape)
    if info.dtype not in ("U8", "I32", "I64") or size > _MOST_NUMBERS or (count is not None and size != count):
        raise CheckpointError(f"'{name}' is {info.dtype} {list(info.shape)}, which is no such setting.")
    return [int(one) for one in info.load().flatten()]
