"""`TensorInfo`: where a stored tensor lies, and how to read it; `DecodedTensor`: what several stored ones make."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from landrace.checkpoints.bounded import read_into, read_range
from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.reference.blocks import BLOCKS, dequantize
from landrace.models.stored import placed

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_OTHERS = {
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
}
"""Further types that the parts of quantised matrices come in."""


class Readable(Protocol):
    """What parameters are read from. `dtype` is a key of `BLOCKS` where weights can be read from it, `shape` is in
    PyTorch's order."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def order(self) -> Tensor | None:
        """int32 [columns]: which column of the matrix each stored one is; None: its own."""

    def in_order(self) -> Readable:
        """The same with every column in its own place."""

    def part(self, rows: tuple[int, int] | None) -> Readable:
        """The entries [first, end) of the first axis, as a tensor of its own; None: all of them.

        CheckpointError when one block of a quantised vector holds several entries.
        """

    def entry(self, index: int) -> Readable:
        """One entry of the first axis, as a tensor of its own."""

    def read_into(self, out: Tensor) -> None:
        """Fills `out`, contiguous uint8 [nbytes], with the values as `dtype` stores them."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint. `dtype` is the file format's own name."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    path: Path
    offset: int
    """Byte of `path` at which the data starts."""

    @property
    def order(self) -> None:
        """See `Readable`: files keep columns in their own places."""

    def in_order(self) -> TensorInfo:
        """See `Readable`."""
        return self

    def part(self, rows: tuple[int, int] | None) -> TensorInfo:
        """See `Readable`."""
        if rows is None:
            return self
        first, end = rows
        row_bytes = _entry_bytes(self)
        return replace(
            self,
            shape=(end - first, *self.shape[1:]),
            nbytes=(end - first) * row_bytes,
            offset=self.offset + first * row_bytes,
        )

    def entry(self, index: int) -> TensorInfo:
        """See `Readable`."""
        one = self.part((index, index + 1))
        return replace(one, shape=one.shape[1:])

    def read_into(self, out: Tensor) -> None:
        """See `Readable`."""
        read_into(self.path, self.offset, out)

    def raw(self) -> Tensor:
        """The stored bytes, uint8 [rows, bytes per row]; every axis but the last counts as rows."""
        rows = math.prod(self.shape[:-1])
        return read_range(self.path, self.offset, self.nbytes).view(rows, -1 if rows else 0)

    def load(self) -> Tensor:
        """The values, in memory of their own: block formats as float32, others as stored."""
        dtype = PLAIN.get(self.dtype) or _OTHERS.get(self.dtype)
        if dtype is not None:
            return read_range(self.path, self.offset, self.nbytes).view(dtype).view(self.shape)
        require_weights(self)
        return dequantize(self.raw(), self.dtype, self.shape[-1]).view(self.shape)


@dataclass(frozen=True)
class DecodedTensor:
    """A matrix [..., columns] that is computed from other tensors while it is read."""

    name: str
    dtype: str
    """A key of `BLOCKS`."""
    shape: tuple[int, ...]
    rows: Callable[[int, int], Tensor]
    """Rows [first, end), all axes but the last counted as rows, as `dtype` stores them: uint8 [rows, bytes per row]."""
    first: int = 0
    """Number of its first row."""
    order: Tensor | None = field(default=None, compare=False)
    """See `Readable`."""

    @property
    def nbytes(self) -> int:
        block = BLOCKS[self.dtype]
        return math.prod(self.shape) // block.elements * block.bytes

    def in_order(self) -> DecodedTensor:
        """See `Readable`. It is float32 then, since blocks are made of neighbours."""
        order = self.order
        if order is None:
            return self

        def rows(first: int, end: int) -> Tensor:
            values = dequantize(self.rows(first, end), self.dtype, self.shape[-1])
            return placed(values, order).view(torch.uint8)

        return replace(self, dtype="F32", rows=rows, order=None)

    def part(self, rows: tuple[int, int] | None) -> DecodedTensor:
        """See `Readable`."""
        if rows is None:
            return self
        first, end = rows
        inner = math.prod(self.shape[1:-1])
        return replace(self, shape=(end - first, *self.shape[1:]), first=self.first + first * inner)

    def entry(self, index: int) -> DecodedTensor:
        """See `Readable`."""
        one = self.part((index, index + 1))
        return replace(one, shape=one.shape[1:])

    def read_into(self, out: Tensor) -> None:
        """See `Readable`."""
        count = math.prod(self.shape[:-1])
        out.copy_(self.rows(self.first, self.first + count).reshape(-1))


def require_weights(tensor: Readable, kinds: Sequence[str] = tuple(BLOCKS)) -> None:
    """UnsupportedError when `dtype` is none of those that weights can be read from."""
    if tensor.dtype not in kinds:
        raise UnsupportedError(
            f"The tensor '{tensor.name}' is stored as {tensor.dtype}, which is not supported.",
            hint=f"Supported are {', '.join(kinds)}.",
        )


def _entry_bytes(info: TensorInfo) -> int:
    entry_bytes, rest = divmod(info.nbytes, info.shape[0])
    if rest or (len(info.shape) == 1 and info.dtype in BLOCKS and BLOCKS[info.dtype].elements > 1):
        raise CheckpointError(f"The vector '{info.name}' is stored as {info.dtype} and cannot be cut into parts.")
    return entry_bytes
