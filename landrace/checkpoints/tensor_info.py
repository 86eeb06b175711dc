"""`TensorInfo`: where one stored tensor lies, and how to read it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from landrace.checkpoints.bounded import read_range
from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.reference.blocks import BLOCKS, dequantize

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint. `dtype` is the file format's own name, `shape` is in PyTorch's order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    path: Path
    offset: int
    """Byte of `path` at which the data starts."""

    def require_weights(self) -> None:
        """UnsupportedError when `dtype` is not one that weights can be read from."""
        if self.dtype not in BLOCKS:
            raise UnsupportedError(
                f"The tensor '{self.name}' is stored as {self.dtype}, which is not supported.",
                hint=f"Supported are {', '.join(BLOCKS)}.",
            )

    def part(self, rows: tuple[int, int] | None) -> TensorInfo:
        """The entries [first, end) of the first axis, as a tensor of its own; None: all of them.

        CheckpointError when one block of a quantised vector holds several entries.
        """
        if rows is None:
            return self
        first, end = rows
        row_bytes, rest = divmod(self.nbytes, self.shape[0])
        if rest or (len(self.shape) == 1 and self.dtype not in PLAIN):
            raise CheckpointError(f"The vector '{self.name}' is stored as {self.dtype} and cannot be cut into parts.")
        return replace(
            self,
            shape=(end - first, *self.shape[1:]),
            nbytes=(end - first) * row_bytes,
            offset=self.offset + first * row_bytes,
        )

    def entry(self, index: int) -> TensorInfo:
        """One entry of the first axis, as a tensor of its own."""
        one = self.part((index, index + 1))
        return replace(one, shape=one.shape[1:])

    def raw(self) -> Tensor:
        """The stored bytes, uint8 [rows, bytes per row]; every axis but the last counts as rows."""
        rows = math.prod(self.shape[:-1])
        return read_range(self.path, self.offset, self.nbytes).view(rows, -1 if rows else 0)

    def load(self) -> Tensor:
        """The values, in memory of their own: F32, F16 and BF16 as stored, block formats as float32."""
        self.require_weights()
        if self.dtype in PLAIN:
            return read_range(self.path, self.offset, self.nbytes).view(PLAIN[self.dtype]).view(self.shape)
        return dequantize(self.raw(), self.dtype, self.shape[-1]).view(self.shape)
