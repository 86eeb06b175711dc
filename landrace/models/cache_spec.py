"""What layers keep of a sequence between steps, as frozen facts. Layers with equal needs form a group, whose blocks or
states are counted together. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from landrace.kernels.mask import Chunked, Mask, Sliding


@dataclass(frozen=True)
class Paged:
    """Something for every position that a later one sees, in blocks."""

    mask: Mask
    every: int = 1
    """One entry for so many positions, which is there from the last of them on."""

    @property
    def reach(self) -> int | None:
        """How many positions before its own a position sees at most; None: all."""
        match self.mask:
            case Sliding(window):
                return window - 1
            case Chunked(chunk):
                return chunk - 1
            case _:
                return None


@dataclass(frozen=True)
class State:
    """One state of a sequence, which every token changes: memory does not grow with its length."""


Kept = Paged | State


@dataclass(frozen=True)
class CacheGroup:
    """Layers whose caches need the same positions."""

    spec: Kept
    layers: tuple[int, ...]
    """Their indices, in order."""


def group_layers(specs: Iterable[Sequence[Kept]]) -> tuple[CacheGroup, ...]:
    """Groups what each layer keeps; the groups of the first layer come first."""
    layers: dict[Kept, list[int]] = {}
    for layer, own in enumerate(specs):
        for spec in own:
            layers.setdefault(spec, []).append(layer)
    return tuple(CacheGroup(spec, tuple(own)) for spec, own in layers.items())
