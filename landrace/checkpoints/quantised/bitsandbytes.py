"""bitsandbytes: 4-bit codes of a table (nf4, fp4) with scales by block, themselves quantised or not; 8-bit rows.

4 bits: `X.weight` bytes with the first code in the high half; `.absmax` a scale for each block of values, in float32,
or as codes of `.nested_quant_map` times `.nested_absmax` plus an offset; `.quant_map` the table; `.quant_state.*` JSON.
8 bits: `X.weight` int8 and `X.SCB`, each row's largest magnitude (Dettmers et al., 2022 and 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from landrace.checkpoints.bounded import parse_json
from landrace.checkpoints.quantised.parts import Parts, finite, matrix_rows, require
from landrace.checkpoints.quantised.scaled import BLOCK, INTEGERS_OF_8_BITS
from landrace.checkpoints.tensor_info import TensorInfo
from landrace.errors import CheckpointError
from landrace.kernels.reference.code_blocks import FP4, NF4, coded_blocks, i8_blocks
from landrace.models.families.config import Config, shown

STATE = ".quant_state.bitsandbytes__"
CODES = 16
_TABLES = {"NF4_F32": NF4, "FP4_F32": FP4}
"""What codes stand for, by the kernels' block types."""
_MAX_STATE_BYTES = 1 << 16
_LARGEST = 127.0


def read_bitsandbytes(settings: Config, parts: Parts) -> None:
    """Reads every matrix with a quantisation state or with the largest magnitudes of its rows."""
    settings.require("bnb_4bit_quant_storage", "uint8")
    settings.finish((r"quant_method|_?load_in_[48]bit|llm_int8_.*|bnb_4bit_.*|modules_to_not_convert",))
    for name in [name for name in parts.left if STATE in name]:
        matrix = name.partition(STATE)[0]
        _put_4_bits(parts, matrix, parts.take(name, matrix))
    for module in parts.named(".SCB"):
        _put_8_bits(parts, f"{module}.weight", parts.take(f"{module}.SCB", module))
        parts.take_if(f"{module}.weight_format")


def _put_8_bits(parts: Parts, name: str, largest: TensorInfo) -> None:
    weight = parts.take(name, name)
    if len(weight.shape) != 2:
        raise CheckpointError(f"'{name}' has the shape {list(weight.shape)}, which is no matrix.")
    require(weight, weight.shape, "I8")
    require(largest, weight.shape[:1], "F32")

    def scales(first: int, end: int) -> Tensor:
        return finite(largest.part((first, end)))[:, None] * (1 / _LARGEST)

    def rows(first: int, end: int) -> Tensor:
        return matrix_rows(weight, first, end).float() * scales(first, end)

    def blocks(first: int, end: int) -> Tensor:
        by = scales(first, end).expand(-1, weight.shape[1] // BLOCK)
        numbers = matrix_rows(weight, first, end).view(torch.uint8) ^ 128
        return i8_blocks(numbers, by, torch.full(by.shape, 128, dtype=torch.uint8))

    in_blocks = weight.shape[1] % BLOCK == 0
    parts.put(name, INTEGERS_OF_8_BITS if in_blocks else "F32", weight.shape, blocks if in_blocks else rows)


@dataclass(frozen=True)
class _Blocks:
    """Where the scales of a matrix's blocks of values come from."""

    size: int
    absmax: TensorInfo
    nested: tuple[TensorInfo, TensorInfo, int, float] | None
    """Scales of the scales, their table, how many scales share one, and what is added."""

    def scales(self, first: int, end: int) -> Tensor:
        """Those of blocks [first, end), in float32."""
        if self.nested is None:
            return finite(self.absmax.part((first, end)))
        absmax, table, size, offset = self.nested
        of = torch.arange(first, end) // size
        codes = self.absmax.part((first, end)).load().int()
        return finite(table)[codes] * finite(absmax)[of] + offset


def _put_4_bits(parts: Parts, name: str, state: TensorInfo) -> None:
    if state.nbytes > _MAX_STATE_BYTES:
        raise CheckpointError(f"'{state.name}' has {state.nbytes} bytes; at most {_MAX_STATE_BYTES} are accepted.")
    values = parse_json(state.load().view(torch.uint8).numpy().tobytes(), f"'{state.name}'")
    shape, size = values.get("shape"), values.get("blocksize")
    if not isinstance(shape, list) or len(shape) != 2 or not all(_is_size(one) for one in shape) or not _is_size(size):
        raise CheckpointError(
            f"'{state.name}' says shape {shown(shape)} and blocksize {shown(size)}, which is no matrix."
        )
    assert isinstance(size, int)
    n_out, n_in = shape
    count = n_out * n_in
    n_blocks = -(-count // size)
    packed, absmax, table = (parts.take(one, name) for one in (name, f"{name}.absmax", f"{name}.quant_map"))
    if packed.dtype != "U8" or math.prod(packed.shape) != -(-count // 2):
        raise CheckpointError(
            f"'{name}' is {packed.dtype} {list(packed.shape)}, not the codes of {n_out} x {n_in} values."
        )
    require(table, (CODES,), "F32")
    nested = _nested(parts, name, values, n_blocks)
    require(absmax, (n_blocks,), "U8" if nested else "F32")
    blocks = _Blocks(size, absmax, nested)
    values_of_codes = table.load()
    kind = next((kind for kind, known in _TABLES.items() if torch.equal(values_of_codes, torch.tensor(known))), None)
    if kind is not None and size % BLOCK == 0 and n_in % BLOCK == 0:
        parts.put(name, kind, (n_out, n_in), partial(_coded_rows, packed, blocks, n_in))
    else:
        parts.put(name, "F32", (n_out, n_in), partial(_rows, packed, table, blocks, n_in))


def _nested(
    parts: Parts, name: str, state: dict[str, Any], n_blocks: int
) -> tuple[TensorInfo, TensorInfo, int, float] | None:
    absmax = parts.take_if(f"{name}.nested_absmax")
    if absmax is None:
        return None
    table, size, offset = (
        parts.take(f"{name}.nested_quant_map", name),
        state.get("nested_blocksize"),
        state.get("nested_offset"),
    )
    if not _is_size(size) or not isinstance(offset, float) or not math.isfinite(offset):
        raise CheckpointError(f"'{name}' has nested scales of blocks of {shown(size)} and the offset {shown(offset)}.")
    assert isinstance(size, int)
    require(absmax, (-(-n_blocks // size),), "F32")
    require(table, (256,), "F32")
    return absmax, table, size, offset


def _rows(packed: TensorInfo, table: TensorInfo, blocks: _Blocks, n_in: int, first: int, end: int) -> Tensor:
    codes, scales = _codes(packed, n_in, first, end), _scales(blocks, n_in, first, end, 1)
    return finite(table)[codes.int()] * scales


def _coded_rows(packed: TensorInfo, blocks: _Blocks, n_in: int, first: int, end: int) -> Tensor:
    return coded_blocks(_codes(packed, n_in, first, end), _scales(blocks, n_in, first, end, BLOCK))


def _codes(packed: TensorInfo, n_in: int, first: int, end: int) -> Tensor:
    """Those of rows [first, end), which are a stretch of all values."""
    start, stop = first * n_in, end * n_in
    whole = TensorInfo(packed.name, "U8", (packed.nbytes,), packed.nbytes, packed.path, packed.offset)
    halves = whole.part((start // 2, -(-stop // 2))).load()
    return torch.stack((halves >> 4, halves & 15), dim=1).flatten()[start % 2 :][: stop - start].view(-1, n_in)


def _scales(blocks: _Blocks, n_in: int, first: int, end: int, step: int) -> Tensor:
    """Of every `step`th value of rows [first, end): blocks go on from row to row."""
    start, stop = first * n_in, end * n_in
    of = torch.arange(start, stop, step) // blocks.size
    first_block, end_block = start // blocks.size, -(-stop // blocks.size)
    return blocks.scales(first_block, end_block)[of - first_block].view(end - first, -1)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 40
