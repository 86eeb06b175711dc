"""Low-rank adapters (Hu et al., 2021) beside a decoder's weights: a bank, by place and name.

Several adapters can share one decoder; `ForwardBatch.adapters` says which rows use which. The bank keeps the tensors it
is given where it can, so that a trainer and an engine may hold the same ones.
"""

from __future__ import annotations

import math
from collections.abc import ItemsView, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landrace.errors import CheckpointError
from landrace.models.lora_spec import LoraSpec
from landrace.models.params import as_parameter


@dataclass(frozen=True)
class Adapter:
    """W x becomes W x + scale * B A x for every weight that `pairs` names."""

    scale: float
    pairs: Mapping[str, tuple[nn.Parameter, nn.Parameter]]
    """Weight to A [rank, in] and B [out, rank], in float32; experts have a leading dimension in both."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """The matrices under the names `adapter_of` takes."""
        leaves = ("lora_A", "lora_B")
        return {f"{name}.{leaf}": m for name, pair in self.pairs.items() for leaf, m in zip(leaves, pair, strict=True)}


class AdapterBank:
    """Adapters by place."""

    def __init__(self) -> None:
        self._adapters: dict[int, Adapter] = {}

    def add(self, adapter: Adapter) -> int:
        """Takes an adapter and returns its place."""
        place = 1 + max(self._adapters, default=-1)
        self._adapters[place] = adapter
        return place

    def remove(self, place: int) -> None:
        del self._adapters[place]

    def __getitem__(self, place: int) -> Adapter:
        return self._adapters[place]

    def __len__(self) -> int:
        return len(self._adapters)

    def items(self) -> ItemsView[int, Adapter]:
        """Place and adapter."""
        return self._adapters.items()


def fresh_tensors(
    shapes: Mapping[str, tuple[int, ...]], spec: LoraSpec, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """A new adapter for weights of these shapes ([out, in] or [experts, out, in]): A uniform within 1 / sqrt(in)
    (Kaiming with a = sqrt 5), B zero, so that it changes nothing yet."""
    tensors = {}
    for name, (*experts, n_out, n_in) in shapes.items():
        bound = 1.0 / math.sqrt(n_in)
        tensors[f"{name}.lora_A"] = torch.empty(*experts, spec.rank, n_in).uniform_(-bound, bound, generator=generator)
        tensors[f"{name}.lora_B"] = torch.zeros(*experts, n_out, spec.rank)
    return tensors


def adapter_of(
    shapes: Mapping[str, tuple[int, ...]], spec: LoraSpec, tensors: Mapping[str, Tensor], device: torch.device
) -> Adapter:
    """An adapter for weights of these shapes from `layers.N.self_attn.q_proj.lora_A`, `.lora_B` and so on. Weights
    without either stay as they are.

    Raises CheckpointError for a tensor that is missing, left over or of the wrong shape.
    """
    pairs: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
    left = dict(tensors)
    for name, (*experts, n_out, n_in) in shapes.items():
        if not left.keys() & {f"{name}.lora_A", f"{name}.lora_B"}:
            continue
        found = []
        for leaf, shape in (("lora_A", (*experts, spec.rank, n_in)), ("lora_B", (*experts, n_out, spec.rank))):
            tensor = left.pop(f"{name}.{leaf}", None)
            if tensor is None:
                raise CheckpointError(f"The adapter lacks {name}.{leaf}.")
            if tuple(tensor.shape) != shape:
                raise CheckpointError(
                    f"The adapter's {name}.{leaf} has shape {list(tensor.shape)}, but this model needs {list(shape)}."
                )
            found.append(as_parameter(tensor.detach().to(device=device, dtype=torch.float32)))
        pairs[name] = (found[0], found[1])
    if not pairs:
        raise CheckpointError("The adapter lacks tensors for every weight that it targets.")
    if left:
        raise CheckpointError(f"The adapter has {len(left)} tensors this model has no place for, such as {min(left)}.")
    return Adapter(spec.scale, pairs)
