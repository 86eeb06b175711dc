"""Matrices of small numbers with scales: one for all, for each row, for each group of columns, or for each block.

A value is scale * (number - zero point). It is computed in float32, which holds the product of such numbers exactly or
rounds it once, as the formats' own libraries do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from landrace.checkpoints.quantised.parts import Parts, Rows, Shape, finite, matrix_rows, require
from landrace.checkpoints.tensor_info import PLAIN, TensorInfo
from landrace.errors import CheckpointError
from landrace.kernels.reference.code_blocks import f8_blocks, i4_blocks, i8_blocks

FP8 = {"F8_E4M3": "F8_F32", "F8_E5M2": "E5M2_F32"}
"""The kernels' blocks for 8-bit floats."""
INTEGERS_OF_8_BITS = "I8_F32"
FLOATS = ("F32", "F16", "BF16", "F8_E8M0")
BLOCK = 32
"""Values that share a scale in the blocks of the kernels."""
SCALES = ("_scale_inv", "_scale")
"""What may follow a tensor's name in that of its scales; both are multiplied with."""


@dataclass(frozen=True)
class Grid:
    """Which entry of a grid [..., n_down, n_across] holds for which values of a matrix [..., n_out, n_in]."""

    n_out: int
    n_in: int
    n_down: int
    n_across: int
    down: int
    """Rows that share an entry."""
    across: int
    """Columns that share one; the last ones may be fewer."""

    @property
    def in_blocks(self) -> bool:
        """Whether every 32 columns share an entry."""
        return self.n_in % BLOCK == 0 and (self.across % BLOCK == 0 or self.n_across == 1)

    def of_blocks(self, entries: Rows, first: int, end: int) -> Tensor:
        """`spread`, once for every 32 columns: [end - first, n_in / 32]."""
        return self.spread(entries, first, end)[:, ::BLOCK]

    def spread(self, entries: Rows, first: int, end: int, groups: Tensor | None = None) -> Tensor:
        """Rows [first, end) of the entries, each repeated over its block: [end - first, n_in].

        `groups` [n_in]: the column of the grid that each column of the matrix belongs to, where they are not in order.
        """
        rows = torch.arange(first, end)
        index = rows // self.n_out * self.n_down + rows % self.n_out // self.down
        start = int(index[0]) if len(index) else 0
        found = entries(start, int(index[-1]) + 1)[index - start] if len(index) else entries(0, 0)
        if groups is not None:
            return found[:, groups]
        return found.repeat_interleave(self.across, dim=1)[:, : self.n_in]


def grid_of(name: str, matrix: Shape, entries: Shape, block: Sequence[int] | None = None) -> Grid:
    """The grid with entries of this shape over a matrix. `block`: rows and columns that share an entry, where the
    configuration says so.

    CheckpointError when they do not fit: `name` is that of the scales.
    """
    *before, n_out, n_in = matrix
    if math.prod(entries) == math.prod(before):
        n_down, n_across, block = 1, 1, None
    elif entries in (matrix[:-1], (*matrix[:-1], 1)):
        n_down, n_across, block = n_out, 1, None
    elif len(entries) == len(matrix) and entries[:-2] == tuple(before):
        n_down, n_across = entries[-2:]
    else:
        raise _misfit(name, matrix, entries)
    down, across = (_shared(*one) for one in zip((n_out, n_in), (n_down, n_across), block or (None, None), strict=True))
    if down is None or across is None:
        raise _misfit(name, matrix, entries)
    return Grid(n_out, n_in, n_down, n_across, down, across)


def _shared(size: int, count: int, given: int | None) -> int | None:
    """How many of `size` share one of `count` entries; None: they do not fit."""
    if given is not None:
        return given if -(-size // given) == count else None
    return size // count if count and size % count == 0 else None


def _misfit(name: str, matrix: Shape, entries: Shape) -> CheckpointError:
    return CheckpointError(f"'{name}' has the shape {list(entries)}, which fits no matrix of {list(matrix)}.")


def entry_rows(info: TensorInfo, grid: Grid) -> Rows:
    """The entries of a grid of scales, [rows, n_across] in float32; CheckpointError when one is NaN or infinite."""
    flat = TensorInfo(info.name, info.dtype, (math.prod(info.shape) // grid.n_across, grid.n_across), info.nbytes,
                      info.path, info.offset)  # fmt: skip
    return lambda first, end: finite(flat.part((first, end)))


def integer_block(bits: int, scale: str) -> str:
    """The kernels' block type for integers without sign of up to 8 bits, with scales that are stored like this."""
    return f"I4_{scale}" if bits <= 4 and scale in ("F16", "BF16") else INTEGERS_OF_8_BITS


def integer_blocks(kind: str, numbers: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Such blocks, uint8 [rows, bytes per row]: uint8 [rows, columns], and for every 32 columns a float32 scale and a
    uint8 zero point [rows, columns / 32]."""
    if kind == INTEGERS_OF_8_BITS:
        return i8_blocks(numbers, scales, zeros)
    return i4_blocks(numbers, scales.to(PLAIN[kind.removeprefix("I4_")]), zeros)


def put_scaled(
    parts: Parts, name: str, scale: TensorInfo, block: Sequence[int] | None = None, zeros: TensorInfo | None = None
) -> None:
    """The matrix `name` of 8-bit numbers times its scales, in place of both."""
    weight = parts.take(name, name)
    if len(weight.shape) < 2 or weight.dtype not in (*FP8, "I8"):
        raise CheckpointError(f"'{name}' is stored as {weight.dtype} {list(weight.shape)}, not 8-bit rows.")
    if scale.dtype not in FLOATS:
        raise CheckpointError(f"'{scale.name}' is stored as {scale.dtype}, not as {' or '.join(FLOATS)}.")
    grid = grid_of(scale.name, weight.shape, scale.shape, block)
    scales = entry_rows(scale, grid)
    if zeros is not None:
        require(zeros, scale.shape, "I8")
    offsets = entry_rows(zeros, grid) if zeros is not None else None

    def rows(first: int, end: int) -> Tensor:
        numbers = matrix_rows(weight, first, end).float()
        if offsets is not None:
            numbers -= grid.spread(offsets, first, end)
        return numbers.mul_(grid.spread(scales, first, end))

    if not grid.in_blocks or (zeros is not None and weight.dtype != "I8"):
        parts.put(name, "F32", weight.shape, rows)
    elif weight.dtype == "I8":
        parts.put(name, INTEGERS_OF_8_BITS, weight.shape, partial(_i8_rows, weight, grid, scales, offsets))
    else:
        parts.put(name, FP8[weight.dtype], weight.shape, partial(_f8_rows, weight, grid, scales))


def _f8_rows(weight: TensorInfo, grid: Grid, scales: Rows, first: int, end: int) -> Tensor:
    numbers = matrix_rows(weight, first, end)
    if not numbers.float().isfinite().all():
        raise CheckpointError(f"'{weight.name}' holds numbers that are NaN or infinite.")
    return f8_blocks(numbers, grid.of_blocks(scales, first, end))


def _i8_rows(weight: TensorInfo, grid: Grid, scales: Rows, offsets: Rows | None, first: int, end: int) -> Tensor:
    numbers, by = matrix_rows(weight, first, end), grid.of_blocks(scales, first, end)
    zeros = torch.zeros_like(by) if offsets is None else grid.of_blocks(offsets, first, end)
    return i8_blocks(numbers.view(torch.uint8) ^ 128, by, (zeros + 128).to(torch.uint8))
