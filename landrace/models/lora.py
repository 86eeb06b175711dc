"""Low-rank adapters (Hu et al., 2021), put around a decoder's projections from outside.

Several adapters can share one decoder; `ForwardBatch.adapters` says which rows use which.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from landrace.errors import CheckpointError
from landrace.kernels.reference.dense import linear
from landrace.models.layers import Linear, Step
from landrace.models.lora_spec import PROJECTIONS, LoraSpec

if TYPE_CHECKING:
    from landrace.models.decoder import Decoder


class LoraLinear(nn.Module):
    """A projection and its adapters, by slot."""

    def __init__(self, base: Linear) -> None:
        super().__init__()
        self.base = base
        self.lora_A = nn.ParameterDict()
        self.lora_B = nn.ParameterDict()
        self.scales: dict[str, float] = {}

    def add(self, slot: int, a: Tensor, b: Tensor, scale: float) -> None:
        self.lora_A[str(slot)] = nn.Parameter(a, requires_grad=False)
        self.lora_B[str(slot)] = nn.Parameter(b, requires_grad=False)
        self.scales[str(slot)] = scale

    def remove(self, slot: int) -> None:
        for table in (self.lora_A, self.lora_B, self.scales):
            del table[str(slot)]

    def forward(self, x: Tensor, step: Step) -> Tensor:
        y: Tensor = self.base(x, step)
        for adapter in step.batch.adapters:
            key = str(adapter.slot)
            if key not in self.scales:
                continue
            rows = x if adapter.rows is None else x.index_select(0, adapter.rows)
            low = linear(rows, self.lora_A[key], None) * self.scales[key]
            up = self.lora_B[key].to(low.dtype).t()
            if adapter.rows is None:
                y = torch.addmm(y, low, up)
            else:
                y = y.index_add(0, adapter.rows, low @ up)
        return y


def _projections(decoder: Decoder, targets: tuple[str, ...]) -> dict[str, Linear | LoraLinear]:
    return {
        name: module
        for name, module in decoder.layers.named_modules(prefix="layers")
        if isinstance(module, (Linear, LoraLinear)) and name.rpartition(".")[2] in targets
    }


def _slots(module: Linear | LoraLinear) -> tuple[str, ...]:
    return tuple(module.scales) if isinstance(module, LoraLinear) else ()


def fresh_pairs(
    shapes: Mapping[str, tuple[int, int]], spec: LoraSpec, generator: torch.Generator | None
) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) of every projection, named with its [out, in]: A uniform within 1 / sqrt(in) (Kaiming with a = sqrt 5), B
    zero, so that it changes nothing yet."""
    pairs = {}
    for name, (n_out, n_in) in shapes.items():
        bound = 1.0 / math.sqrt(n_in)
        a = torch.empty(spec.rank, n_in).uniform_(-bound, bound, generator=generator)
        pairs[name] = (a, torch.zeros(n_out, spec.rank))
    return pairs


def checked_pairs(
    shapes: Mapping[str, tuple[int, int]], spec: LoraSpec, tensors: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) of every projection, as float32 copies. Raises CheckpointError for a tensor that is missing, left over or
    of the wrong shape."""
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    left = dict(tensors)
    for name, (n_out, n_in) in shapes.items():
        found = []
        for leaf, shape in (("lora_A", (spec.rank, n_in)), ("lora_B", (n_out, spec.rank))):
            tensor = left.pop(f"{name}.{leaf}", None)
            if tensor is None:
                raise CheckpointError(f"The adapter lacks {name}.{leaf}.")
            if tuple(tensor.shape) != shape:
                raise CheckpointError(
                    f"The adapter's {name}.{leaf} has shape {list(tensor.shape)}, but this model needs {list(shape)}."
                )
            found.append(tensor.detach().to(device="cpu", dtype=torch.float32).clone())
        pairs[name] = (found[0], found[1])
    if left:
        raise CheckpointError(f"The adapter has {len(left)} tensors this model has no place for, such as {min(left)}.")
    return pairs


def attach_adapter(
    decoder: Decoder,
    spec: LoraSpec,
    tensors: Mapping[str, Tensor] | None = None,
    *,
    generator: torch.Generator | None = None,
) -> int:
    """Puts an adapter on `decoder` and returns its slot for `AdapterRows`.

    `tensors` maps `layers.N.self_attn.q_proj.lora_A` to [rank, in] and `.lora_B` to [out, rank]. None starts a fresh
    adapter (`fresh_pairs`).
    Raises CheckpointError for a tensor that is missing, left over or of the wrong shape.
    """
    targeted = _projections(decoder, spec.targets)
    shapes = {}
    for name, module in targeted.items():
        weight = (module.base if isinstance(module, LoraLinear) else module).weight
        shapes[name] = (weight.shape[0], weight.shape[1])
    pairs = fresh_pairs(shapes, spec, generator) if tensors is None else checked_pairs(shapes, spec, tensors)
    device = decoder.device

    slot = 1 + max(
        (int(key) for module in _projections(decoder, PROJECTIONS).values() for key in _slots(module)), default=-1
    )
    for name, module in targeted.items():
        if isinstance(module, Linear):
            path, _, leaf = name.rpartition(".")
            wrapped = LoraLinear(module)
            setattr(decoder.get_submodule(path), leaf, wrapped)
            module = wrapped
        a, b = pairs[name]
        module.add(slot, a.to(device), b.to(device), spec.scale)
    return slot


def detach_adapter(decoder: Decoder, slot: int) -> None:
    """Takes the adapter in `slot` off again; a projection without adapters becomes plain."""
    for name, module in _projections(decoder, PROJECTIONS).items():
        if isinstance(module, LoraLinear) and str(slot) in module.scales:
            module.remove(slot)
            if not module.scales:
                path, _, leaf = name.rpartition(".")
                setattr(decoder.get_submodule(path), leaf, module.base)


def adapter_parameters(decoder: Decoder, slot: int) -> dict[str, nn.Parameter]:
    """The adapter's matrices under the names `attach_adapter` takes."""
    found: dict[str, nn.Parameter] = {}
    for name, module in _projections(decoder, PROJECTIONS).items():
        if isinstance(module, LoraLinear) and str(slot) in module.scales:
            found[f"{name}.lora_A"] = module.lora_A[str(slot)]
            found[f"{name}.lora_B"] = module.lora_B[str(slot)]
    return found
