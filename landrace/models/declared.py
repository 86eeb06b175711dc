"""What a model's blocks declare: every parameter's name, shape, role and share, without memory for any of them.

Checkpoint names, adapters' targets, counts of parameters and the least work of a step follow from this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from torch import nn

from landrace.models.decoder import Decoder
from landrace.models.params import Role, Split, Weights
from landrace.models.spec import ModelSpec


@dataclass(frozen=True)
class Param:
    name: str
    shape: tuple[int, ...]
    role: Role
    split: Split | None
    share: float
    """How much of it one token uses."""
    n_heads: int = 1
    """How many heads its rows belong to, where it is multiplied head by head."""
    repeats: int = 1
    """For how many parts of a row, one behind another, it holds."""

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def in_layers(self) -> bool:
        return self.name.startswith("layers.")

    @property
    def is_matrix(self) -> bool:
        """Whether a product reads it."""
        return self.name.endswith(".weight") and len(self.shape) >= 2 and self.role not in ("table", "kernel", "places")


def declared(spec: ModelSpec) -> tuple[Param, ...]:
    """Every parameter of `Decoder(spec)`, in order of use."""
    # Layers that are alike declare alike, so one of each kind is built.
    kinds = {layer: n for n, layer in enumerate(dict.fromkeys(spec.layers))}
    built = params_of(Decoder(replace(spec, layers=tuple(kinds))))
    of_kind: list[list[Param]] = [[] for _ in kinds]
    for param in built:
        if param.in_layers:
            of_kind[int(param.name.split(".")[1])].append(param)
    layers = (
        replace(param, name=f"layers.{n}.{param.name.split('.', 2)[2]}")
        for n, layer in enumerate(spec.layers)
        for param in of_kind[kinds[layer]]
    )
    embedding, *last = (param for param in built if not param.in_layers)
    return embedding, *layers, *last


def shapes_of(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of `Decoder(spec)`, by name."""
    return {param.name: param.shape for param in declared(spec)}


def params_of(tree: nn.Module) -> tuple[Param, ...]:
    """Every parameter of a decoder or an encoder, in order of use."""
    return tuple(
        Param(
            f"{holder.name}.{leaf}",
            tuple(weight.shape),
            holder.role,
            holder.split,
            holder.share,
            holder.n_heads,
            holder.repeats,
        )
        for holder in tree.modules()
        if isinstance(holder, Weights)
        for leaf, weight in holder.named_parameters(recurse=False)
    )


@dataclass(frozen=True)
class Counts:
    """Parameters of a model."""

    total: int
    active: int
    """Those that one token uses: all but the experts it does not go to."""


def count(spec: ModelSpec) -> Counts:
    params = declared(spec)
    return Counts(sum(param.size for param in params), round(sum(param.share * param.size for param in params)))
