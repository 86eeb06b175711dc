"""`PackedWeights`: a model's parameters in one memory, as the C++ kernels read them, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from landrace.errors import CheckpointError
from landrace.kernels.cpu.weights import KINDS, PackedMatrix, PackedVector, WeightMemory, as_rows, total_bytes
from landrace.models.declared import Param
from landrace.models.stored import StoredTensor


class PackedWeights:
    """Matrices stay as the checkpoint stores them where the kernels multiply with such blocks, and are unpacked to
    float32 where they do not; vectors, routers, whose rounding would choose other experts, and what weights
    residual streams are float32.

    Raises CheckpointError for an unknown name, a wrong shape or one that is missing.
    """

    def __init__(
        self, native: ModuleType, pool: Any, params: Iterable[Param], tensors: Mapping[str, StoredTensor]
    ) -> None:
        self.matrices: dict[str, PackedMatrix] = {}
        self.vectors: dict[str, PackedVector] = {}
        self.stacks: dict[str, tuple[PackedMatrix, ...]] = {}
        """A matrix of each expert or head; those of absorbed weights are transposed."""
        self.expert_vectors: dict[str, tuple[PackedVector, ...]] = {}
        # In the order of use, so that a step reads memory from front to back.
        found = [(param, _held(param, tensor)) for param, tensor in _matched(params, tensors)]
        self._memory = WeightMemory(native, pool, _packed_bytes(native, found))
        self._orders: dict[bytes, PackedVector] = {}
        """Each once, so that matrices with the same share what is prepared for them."""
        self.held_bytes: dict[str, int] = {}
        """What each parameter takes."""
        for param, tensor in found:
            before = self._memory.used_bytes
            self._pack(param, tensor)
            self.held_bytes[param.name] = self._memory.used_bytes - before

    @property
    def used_bytes(self) -> int:
        return self._memory.used_bytes

    @property
    def block_types(self) -> set[str]:
        """Of all matrices."""
        stacked = (matrix for matrices in self.stacks.values() for matrix in matrices)
        return {matrix.block_type for matrix in (*self.matrices.values(), *stacked)}

    def _pack(self, param: Param, tensor: StoredTensor) -> None:
        name, memory = param.name, self._memory
        if _is_flat(param):
            self.vectors[name] = memory.vector(tensor.values().flatten())
        elif len(tensor.shape) == 3:
            each = torch.split(tensor.read(), tensor.shape[1])
            self.stacks[name] = tuple(memory.matrix(rows, tensor.block_type, tensor.shape[2]) for rows in each)
        elif param.role == "experts":
            self.expert_vectors[name] = tuple(memory.vector(row) for row in tensor.values())
        elif len(param.shape) == 2:
            self.matrices[name] = memory.matrix(tensor.read(), tensor.block_type, tensor.shape[1], self._order(tensor))
        else:
            self.vectors[name] = memory.vector(tensor.values().repeat(param.repeats))

    def _order(self, tensor: StoredTensor) -> PackedVector | None:
        if tensor.order is None:
            return None
        key = tensor.order.numpy().tobytes()
        if key not in self._orders:
            self._orders[key] = self._memory.vector(tensor.order.float())
        return self._orders[key]


def packed_bytes(native: ModuleType, params: Iterable[Param], tensors: Mapping[str, StoredTensor]) -> int:
    """What `PackedWeights` takes of memory, at most. No tensor is read. Raises what it raises."""
    return _packed_bytes(native, [(param, _held(param, tensor)) for param, tensor in _matched(params, tensors)])


def _packed_bytes(native: ModuleType, held: Sequence[tuple[Param, StoredTensor]]) -> int:
    sizes = [size for param, tensor in held for size in _matrix_sizes(param, tensor)]
    lengths = [length for param, _ in held for length in _vector_lengths(param)]
    lengths += [len(tensor.order) for _, tensor in held if tensor.order is not None]
    return total_bytes(native, sizes, lengths)


def _matched(params: Iterable[Param], tensors: Mapping[str, StoredTensor]) -> Iterator[tuple[Param, StoredTensor]]:
    left, missing = set(tensors), []
    pairs: list[tuple[Param, StoredTensor]] = []
    for param in params:
        tensor = tensors.get(param.name)
        left.discard(param.name)
        if tensor is None:
            missing.append(param.name)
        elif tensor.shape != param.shape:
            raise CheckpointError(
                f"The tensor {param.name!r} has shape {list(tensor.shape)}, but the configuration says "
                f"{list(param.shape)}."
            )
        else:
            pairs.append((param, tensor))
    if left:
        raise CheckpointError(f"The model has no place for the tensor {min(left)!r}.")
    if missing:
        some = ", ".join(missing[:5])
        raise CheckpointError(f"The checkpoint lacks {len(missing)} tensors the configuration asks for: {some}.")
    yield from pairs


def _held(param: Param, tensor: StoredTensor) -> StoredTensor:
    """The tensor as it is packed: a matrix of each head on an axis of their own."""
    exact = param.role in ("router", "streams") and len(param.shape) == 2 and not _is_number_table(param)
    reordered = tensor.order is not None and param.role != "linear"
    if exact or reordered or tensor.block_type not in KINDS:
        tensor = _unpacked(tensor)
    if param.role == "heads":
        return replace(tensor, shape=(param.n_heads, param.shape[0] // param.n_heads, param.shape[1]))
    return _transposed(tensor, param.n_heads) if param.role == "absorbed" else tensor


def _unpacked(tensor: StoredTensor) -> StoredTensor:
    return StoredTensor("F32", tensor.shape, lambda: as_rows(tensor.values().view(-1, tensor.shape[-1]))[0])


def _transposed(tensor: StoredTensor, n_heads: int) -> StoredTensor:
    """Each head's matrix transposed. Blocks that run the other way are unpacked, to float32."""
    n_rows, n_in = tensor.shape
    shape = (n_heads, n_in, n_rows // n_heads)
    if tensor.transposed_heads:
        return StoredTensor(tensor.block_type, shape, tensor.read)

    def read() -> Tensor:
        heads = tensor.floats().view(n_heads, -1, n_in).transpose(1, 2)
        return StoredTensor.of(heads).read()

    block_type = tensor.block_type if tensor.block_type in ("F32", "F16", "BF16") else "F32"
    return StoredTensor(block_type, shape, read)


def _is_number_table(param: Param) -> bool:
    return param.role == "router" and param.name.endswith(".table")


def _is_flat(param: Param) -> bool:
    """Whether no product reads it, whatever axes it has."""
    return _is_number_table(param) or param.role in ("kernel", "places")


def _matrix_sizes(param: Param, tensor: StoredTensor) -> list[tuple[str, int, int]]:
    """(block type, rows, columns) of each matrix that is packed."""
    if _is_flat(param) or len(param.shape) < 2 or (param.role == "experts" and len(param.shape) == 2):
        return []
    *stacked, n_out, n_in = tensor.shape
    return [(tensor.block_type, n_out, n_in)] * (stacked[0] if stacked else 1)


def _vector_lengths(param: Param) -> list[int]:
    if _is_flat(param):
        return [param.size]
    if param.role == "experts" and len(param.shape) == 2:
        return [param.shape[1]] * param.shape[0]
    return [param.shape[0] * param.repeats] if len(param.shape) == 1 else []
