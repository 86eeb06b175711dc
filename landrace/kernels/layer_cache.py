"""What layers keep between steps, in the layout of the kernels that write and read it, and where a step finds it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

INT4 = torch.uint8
"""The type of a cache of 4-bit codes: PyTorch computes with no such type, so a byte has two."""


@dataclass(frozen=True)
class LayerCache:
    """The reference kernels keep keys and values as [n_slots, n_kv_heads, head_dim], and latents as keys [n_slots, 1,
    kv_rank + rope_dim]; for the C++ kernels see `kernels.cpu.cache.new_layer_cache`."""

    keys: Tensor
    values: Tensor | None = None
    """None: a key's first channels are its value (latents)."""
    key_scales: Tensor | None = None
    """int8 and INT4 only: what the stored numbers are multiplied by, and for INT4 what is then added."""
    value_scales: Tensor | None = None
    index: LayerCache | None = None
    """The keys of the layer's indexer, [n_slots, 1, head_dim]."""
    inputs: LayerCache | None = None
    """Where several positions have one key together, what it is made of, until the last of them is there: [n_slots, 1,
    head_dim], and behind it gates, where there are any."""

    @property
    def parts(self) -> tuple[LayerCache, ...]:
        """By operation that writes one."""
        inputs, index = (() if one is None else one.parts for one in (self.inputs, self.index))
        return (*inputs, self, *index)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        own = (self.keys, self.values, self.key_scales, self.value_scales)
        return tuple(one for one in own if one is not None)

    @property
    def shared(self) -> tuple[Tensor, ...]:
        """What is kept once for several positions."""
        return () if self.index is None or self.index.inputs is None else self.index.tensors

    @property
    def own_bytes(self) -> int:
        """Without its indexer's, and without its inputs."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def group_bytes(self) -> tuple[int, ...]:
        """By cache group of the layer."""
        if self.index is None or self.index.inputs is None:
            return (sum(part.own_bytes for part in self.parts),)
        return (self.own_bytes, self.index.inputs.own_bytes, self.index.own_bytes)


def kept_as(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in the floating type of a cache. In float16 what is finite stays finite and what is not becomes NaN, as the C++
    kernels keep it."""
    if dtype != torch.float16:
        return x.to(dtype)
    greatest = torch.finfo(dtype).max
    return torch.where(x.isfinite(), x.clamp(-greatest, greatest), torch.nan).to(dtype)


@dataclass(frozen=True)
class CompressedCache:
    """What a layer keeps that attends to compressed rows: of positions keys, which are their own values, and what is
    compressed; and compressed rows."""

    keys: LayerCache
    compressed: tuple[LayerCache, ...]
    """The layer's own rows, which are their own values, and its indexer's where it has one. Their inputs are float32
    [n_slots, 2 * parts * width], for the C++ kernels in tiles [n_slots / 16, 16, 2 * parts * width]: what is summed,
    and then what weights it."""

    @property
    def parts(self) -> tuple[LayerCache, ...]:
        """By operation that writes one."""
        return (self.keys, *(part for rows in self.compressed for part in rows.parts))

    @property
    def shared(self) -> tuple[Tensor, ...]:
        """What is kept once for several positions."""
        return tuple(tensor for rows in self.compressed for tensor in rows.tensors)

    @property
    def group_bytes(self) -> tuple[int, ...]:
        """By cache group of the layer."""
        of_rows = sum(rows.own_bytes for rows in self.compressed)
        of_positions = sum(part.own_bytes for part in self.parts) - of_rows
        return (of_positions, of_rows) if self.compressed else (of_positions,)


@dataclass(frozen=True)
class GroupView:
    """Where a step's rows go in the layers of one cache group, and where each sequence's past lies there.

    A slot is a row of a layer's flat cache: `block * block_size + offset`. Where the group has one entry for so many
    positions, `every`, entries take the place of positions.
    """

    write_slots: Tensor
    """[T] int64: the slot each packed row writes, the last row of an entry's positions where there are several."""
    sequence_slots: Sequence[Tensor]
    """One int64 tensor a sequence: the slots of its positions from its first one here to its last of this step; of
    entries those that are there."""
    first_positions: Sequence[int]
    """By sequence: the first position whose slot is there. No row of the step sees one before it."""
    every: int = 1

    def of_entries(self, every: int) -> GroupView:
        """The same for entries of so many positions each, which take the first slots of each sequence: where all its
        positions have one."""
        place_of = {slot: (s, n) for s, own in enumerate(self.sequence_slots) for n, slot in enumerate(own.tolist())}
        places = (place_of[slot] for slot in self.write_slots.tolist())
        writes = [int(self.sequence_slots[s][position // every]) for s, position in places]
        seen = tuple(own[: own.numel() // every] for own in self.sequence_slots)
        return GroupView(self.write_slots.new_tensor(writes), seen, self.first_positions, every)


@dataclass(frozen=True)
class LayerState:
    """What one recurrent layer keeps, in as many parts as it has: float32 [n_states, ...] each."""

    parts: tuple[Tensor, ...]
    n_guesses: int = 0
    """How many guesses there is room for beside a state."""

    @property
    def group_bytes(self) -> tuple[int, ...]:
        """By cache group of the layer."""
        return (sum(part.nbytes for part in self.parts),)


LayerMemory = LayerCache | CompressedCache | LayerState


@dataclass(frozen=True)
class StateView:
    """Which states the sequences of a step go on from and which they leave.

    A sequence's last rows may be guesses. The state that it leaves is that before them, and what they would change is
    kept beside it: the next step takes in those that were right without computing them again.
    """

    slots: Tensor
    """[S, 4] int64. Where a sequence's state is read (not looked at where it begins at position 0), and where it is
    written: the same one in place; nobody else's, but for one that several read and nobody writes. How many of the
    guesses beside the state that is read were right. How many of the sequence's rows are guesses: where all are, the
    state is read and written in one place, and they are kept behind those that were right."""


def untouched_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros in main memory that take no memory until they are written: a cache is made for many tokens and often
    holds few. (torch.zeros writes them.)"""
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes == 0:
        return torch.zeros(shape, dtype=dtype)
    return torch.from_numpy(np.zeros(n_bytes, dtype=np.uint8)).view(dtype).view(shape)
