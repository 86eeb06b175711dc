"""Weights in the layout that the C++ kernels read: packed from the checkpoint's own blocks, without loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from landrace.kernels.reference.blocks import BLOCKS

KINDS = (
    *("F32", "F16", "BF16", "F8_F32", "E5M2_F32", "NF4_F32", "FP4_F32"),
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ4_NL", "IQ4_XS", "MXFP4", "I4_F16", "I4_BF16", "I8_F32", "NVFP4_F32"),
)
"""The block types that the kernels multiply with: a test compares them with the extension's own list."""
COMPACT_SHARE = 0.85
"""Of its bytes, what a matrix of bfloat16 may take at most to be held in 12 bits a weight. See csrc/compact.h."""
LARGEST_WHOLE = 1 << 24
"""Up to here float32 holds every whole number."""
_ALIGNMENT = 64


@dataclass(frozen=True)
class PackedVector:
    """`size` float32 values in `WeightMemory`."""

    size: int
    address: int
    memory: Any
    """What it lies in: it must live as long."""


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix [n_out, n_in] in `WeightMemory`."""

    block_type: str
    n_out: int
    n_in: int
    handle: Any
    """The kernels' own view of it."""
    memory: Any
    """What it lies in: it must live as long."""
    n_bytes: int
    """What it takes of that."""
    order: PackedVector | None = None
    """Which of a row's values each input is, as whole numbers; None: that of its own number."""


def matrix_bytes(native: ModuleType, block_type: str, n_out: int, n_in: int) -> int:
    """Bytes that a packed matrix takes at most."""
    _check_matrix(block_type, n_out, n_in)
    return _aligned(native.matrix_bytes(block_type, n_out, n_in))


def vector_bytes(size: int) -> int:
    """Bytes that a vector takes."""
    return _aligned(size * 4)


class WeightMemory:
    """One piece of memory for all matrices and vectors of a model or an adapter.

    `n_bytes` is the sum of `matrix_bytes` and `vector_bytes` of what will be put into it. What is left over is never
    touched, so the system need not give it.
    """

    def __init__(self, native: ModuleType, pool: Any, n_bytes: int) -> None:
        self._native = native
        self._pool = pool
        self._arena = native.Arena(max(n_bytes, 1))
        self._used = 0

    @property
    def used_bytes(self) -> int:
        return self._used

    def matrix(self, stored: Tensor, block_type: str, n_in: int, order: PackedVector | None = None) -> PackedMatrix:
        """Packs stored rows, uint8 [n_out, bytes per row]; bfloat16 in 12 bits a weight where few exponents are enough.
        `order`: which of a row's values each input is. ValueError when they are not rows of `n_in` such values."""
        n_out = stored.shape[0]
        _check_matrix(block_type, n_out, n_in)
        if order is not None and (order.size != n_in or n_in > LARGEST_WHOLE):
            raise ValueError(f"{order.size} numbers cannot be the order of {n_in} inputs.")
        block = BLOCKS[block_type]
        row_bytes = n_in // block.elements * block.bytes
        if (stored.dtype, stored.dim(), stored.device.type) != (torch.uint8, 2, "cpu") or stored.shape[1] != row_bytes:
            raise ValueError(
                f"{list(stored.shape)} {stored.dtype} is not rows of {n_in} values of {block_type} in main memory."
            )
        stored = stored.contiguous()
        n_bytes = matrix_bytes(self._native, block_type, n_out, n_in)
        if block_type == "BF16":
            compaction = self._native.Compaction(self._pool, n_out, n_in, stored.data_ptr())
            compact = _aligned(compaction.bytes)
            if compact <= COMPACT_SHARE * n_bytes:
                handle = compaction.pack(self._pool, self._take(compact))
                return PackedMatrix(block_type, n_out, n_in, handle, self._arena, compact, order)
        address = self._take(n_bytes)
        self._native.pack_matrix(self._pool, block_type, n_out, n_in, stored.data_ptr(), address)
        handle = self._native.Matrix(block_type, n_out, n_in, address)
        return PackedMatrix(block_type, n_out, n_in, handle, self._arena, n_bytes, order)

    def vector(self, values: Tensor) -> PackedVector:
        """Keeps the values of a one-dimensional tensor as float32."""
        if values.dim() != 1:
            raise ValueError(f"A vector has one dimension, not the shape {list(values.shape)}.")
        values = values.detach().to(device="cpu", dtype=torch.float32).contiguous()
        address = self._take(vector_bytes(values.numel()))
        self._native.copy(values.data_ptr(), address, values.numel() * 4)
        return PackedVector(values.numel(), address, self._arena)

    def _take(self, n_bytes: int) -> int:
        if self._used + n_bytes > self._arena.bytes:
            raise ValueError(f"The weights take more than the {self._arena.bytes} bytes that were asked for.")
        address: int = self._arena.address + self._used
        self._used += n_bytes
        return address


def as_rows(values: Tensor) -> tuple[Tensor, str]:
    """A floating matrix as (uint8 [n_out, bytes per row], block type), sharing its memory where it can."""
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    if values.dim() != 2 or values.dtype not in names:
        raise ValueError(f"{values.dtype} {list(values.shape)} is not a floating-point matrix.")
    return values.contiguous().view(torch.uint8), names[values.dtype]


def total_bytes(native: ModuleType, matrices: Iterable[tuple[str, int, int]], vectors: Iterable[int]) -> int:
    """Memory for matrices (block type, n_out, n_in) and vectors (size), at most."""
    return sum(matrix_bytes(native, *matrix) for matrix in matrices) + sum(map(vector_bytes, vectors))


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT


def _check_matrix(block_type: str, n_out: int, n_in: int) -> None:
    if block_type not in KINDS:
        raise ValueError(f"The kernels know {', '.join(KINDS)}, not {block_type}.")
    if n_out < 1 or n_in < 1 or n_in % BLOCKS[block_type].elements:
        raise ValueError(f"{n_out} rows of {n_in} values are not whole blocks of {block_type}.")
    if max(n_out, n_in) >= 2**31:
        raise ValueError(f"A matrix of {n_out} by {n_in} is more than the kernels can number.")
