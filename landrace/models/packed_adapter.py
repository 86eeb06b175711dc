"""`PackedAdapter`: a LoRA adapter's matrices in memory of their own, as the C++ kernels read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from landrace.kernels.cpu.weights import PackedMatrix, WeightMemory, as_rows, total_bytes
from landrace.models.adapters import Adapter
from landrace.models.params import AbsorbedLinear, HeadLinear

Some = Sequence[PackedMatrix]


@dataclass(frozen=True)
class PackedAdapter:
    """See `Adapter`."""

    scale: float
    pairs: Mapping[str, tuple[PackedMatrix, PackedMatrix]]
    expert_pairs: Mapping[str, tuple[Some, Some]]
    """A and B of each expert."""
    head_pairs: Mapping[str, tuple[Some, Some]]
    """What each head's channels are multiplied with first and then: A and the head's B, or where the weight is absorbed
    the head's B transposed and A transposed."""


def pack_adapter(native: ModuleType, pool: Any, tree: nn.Module, adapter: Adapter) -> PackedAdapter:
    """`tree`: the decoder whose weights the adapter changes."""
    found = {name: _matrices(tree.get_submodule(name), *pair) for name, pair in adapter.pairs.items()}
    distinct = {id(matrix): matrix for pair in found.values() for matrices in pair for matrix in matrices}
    sizes = [("F32", *matrix.shape) for matrix in distinct.values()]
    memory = WeightMemory(native, pool, total_bytes(native, sizes, ()))
    packed = {
        key: memory.matrix(as_rows(matrix.detach())[0], "F32", matrix.shape[1]) for key, matrix in distinct.items()
    }
    pairs, expert_pairs, head_pairs = {}, {}, {}
    for name, (first, second) in found.items():
        both = tuple(packed[id(matrix)] for matrix in first), tuple(packed[id(matrix)] for matrix in second)
        if isinstance(tree.get_submodule(name), HeadLinear):
            head_pairs[name] = both
        elif adapter.pairs[name][0].dim() == 3:
            expert_pairs[name] = both
        else:
            pairs[name] = both[0][0], both[1][0]
    return PackedAdapter(adapter.scale, pairs, expert_pairs, head_pairs)


def _matrices(weight: nn.Module, a: Tensor, b: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What is multiplied first and then, for each expert or head."""
    if isinstance(weight, AbsorbedLinear):
        turned = a.t()
        return [own.t() for own in b.chunk(weight.n_heads)], [turned] * weight.n_heads
    if isinstance(weight, HeadLinear):
        return [a] * weight.n_heads, list(b.chunk(weight.n_heads))
    return (list(a), list(b)) if a.dim() == 3 else ([a], [b])
