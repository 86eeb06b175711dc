"""`Parts`: the tensors of a file, taken off one by one into the matrices that they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from landrace.checkpoints.tensor_info import PLAIN, DecodedTensor, Readable, TensorInfo
from landrace.errors import CheckpointError

Shape = tuple[int, ...]
Rows = Callable[[int, int], Tensor]
"""Values of rows [first, end) of a matrix, [rows, columns]; all axes but the last count as rows."""
Unpack = Callable[[Tensor, int, int], Tensor]
"""Rows of words, bits, and how many numbers a row has: see `unpack_bits`."""


class Parts:
    """What is left of a file's tensors, and the matrices that were made of the others."""

    def __init__(self, infos: Mapping[str, TensorInfo]) -> None:
        self._left: dict[str, TensorInfo] = dict(infos)
        self._made: dict[str, DecodedTensor] = {}

    @property
    def left(self) -> Mapping[str, TensorInfo]:
        return self._left

    def named(self, ending: str) -> list[str]:
        """What stands before `ending` in the names of the tensors that end so."""
        return [name.removesuffix(ending) for name in self._left if name.endswith(ending)]

    def take(self, name: str, owner: str) -> TensorInfo:
        """The tensor, which `owner` cannot be read without. CheckpointError when there is none."""
        info = self.take_if(name)
        if info is None:
            raise CheckpointError(f"'{owner}' is quantised, but the checkpoint has no '{name}' for it.")
        return info

    def take_if(self, name: str) -> TensorInfo | None:
        return self._left.pop(name, None)

    def put(self, name: str, dtype: str, shape: Shape, rows: Rows, order: Tensor | None = None) -> None:
        """A matrix made of the tensors taken. `rows` gives its values, or bytes where `dtype` is a block type; `order`,
        which column each of these columns is (`columns_by_group`).

        CheckpointError when the file has a tensor of the name besides.
        """
        if name in self._left or name in self._made:
            raise CheckpointError(f"The checkpoint holds '{name}' twice, quantised and not.")
        self._made[name] = DecodedTensor(name, dtype, shape, _encoded(name, dtype, rows), order=order)

    def tensors(self) -> dict[str, Readable]:
        """What was made and what is left."""
        return {**self._left, **self._made}


def _encoded(name: str, dtype: str, rows: Rows) -> Rows:
    def read(first: int, end: int) -> Tensor:
        values = rows(first, end)
        if values.dtype == torch.uint8:
            return values
        if not values.isfinite().all():
            raise CheckpointError(f"'{name}' is quantised to values that are NaN or infinite.")
        return values.to(PLAIN[dtype]).contiguous().view(torch.uint8)

    return read


def matrix_rows(info: TensorInfo, first: int, end: int) -> Tensor:
    """Rows [first, end) of a tensor whose axes but the last all count as rows, as they are stored: [rows, columns]."""
    n_rows = math.prod(info.shape[:-1])
    flat = TensorInfo(info.name, info.dtype, (n_rows, info.shape[-1]), info.nbytes, info.path, info.offset)
    return flat.part((first, end)).load()


def require(info: TensorInfo, shape: Shape, *dtypes: str) -> None:
    """CheckpointError unless the tensor has this shape and one of these types."""
    if info.shape != shape:
        raise CheckpointError(f"'{info.name}' has the shape {list(info.shape)}, but {list(shape)} is needed.")
    if info.dtype not in dtypes:
        raise CheckpointError(f"'{info.name}' is stored as {info.dtype}, not as {' or '.join(dtypes)}.")


def finite(info: TensorInfo) -> Tensor:
    """All of a small tensor of scales, float32 in its own shape. CheckpointError when one is NaN or infinite."""
    values = info.load().float()
    if not values.isfinite().all():
        raise CheckpointError(f"'{info.name}' holds scales that are NaN or infinite.")
    return values


def group_numbers(info: TensorInfo, n_in: int, n_groups: int) -> Tensor:
    """The group of scales that each column belongs to (activation order). CheckpointError when there is no such."""
    require(info, (n_in,), "I32", "I64")
    groups = info.load().long()
    if n_in and not 0 <= int(groups.min()) <= int(groups.max()) < n_groups:
        raise CheckpointError(f"'{info.name}' names groups from {groups.min()} to {groups.max()}, of {n_groups}.")
    return groups


def columns_by_group(groups: Tensor, block: int) -> Tensor | None:
    """The columns, int32 [n_in], one group of scales after another, so that every `block` neighbours share one; None
    where a group is not whole blocks."""
    if (torch.bincount(groups) % block).any():
        return None
    return groups.argsort(stable=True).int()


def unpack_bits(words: Tensor, bits: int, count: int) -> Tensor:
    """int32 [rows, words], each row a stream of `bits`-bit numbers from the lowest bit on, to uint8 [rows, count]."""
    stored = words.contiguous().view(torch.uint8)
    if bits == 8:
        return stored[:, :count]
    if 8 % bits == 0:
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
        return (stored[:, :, None] >> shifts & (1 << bits) - 1).flatten(1)[:, :count]
    at = torch.arange(count) * bits
    low = stored[:, at // 8].int()
    high = stored[:, (at // 8 + 1).clamp(max=stored.shape[1] - 1)].int()
    return ((low | high << 8) >> (at % 8).int() & (1 << bits) - 1).to(torch.uint8)


def unpack_planes(words: Tensor, bits: int, count: int) -> Tensor:
    """The same where every 32 numbers are cut into planes of 8, 4, 2 or 1 of their bits, the lowest first, and each
    plane has words of its own. `count` is a multiple of 32."""
    blocks = words.contiguous().view(len(words), -1, bits)
    numbers, at = torch.zeros(len(words), count, dtype=torch.uint8), 0
    for width in (8, 4, 2, 1):
        if bits & width:
            numbers |= unpack_bits(blocks[:, :, at : at + width].flatten(1), width, count) << at
            at += width
    return numbers


def words_for(bits: int, count: int) -> int:
    """int32 words that `count` numbers of `bits` bits take."""
    return -(-count * bits // 32)
