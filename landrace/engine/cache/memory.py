"""`CacheMemory`: the tensors behind the bookkeeping, and where each request's positions lie in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from landrace.engine.cache.paged import BlockTable
from landrace.errors import OptionError
from landrace.models.batch import CacheView, GroupView
from landrace.models.serving import ServingDecoder


@dataclass
class _SlotTable:
    slots: Tensor
    n_blocks: int


class CacheMemory:
    """`layers`: what the decoder's `new_cache` makes for each group's blocks of `block_size` tokens.

    Raises OptionError when the memory cannot be had or the decoder keeps no such cache.
    """

    def __init__(
        self, decoder: ServingDecoder, n_blocks: Sequence[int], block_size: int, dtype: torch.dtype | None
    ) -> None:
        if block_size % decoder.cache_tile:
            raise OptionError(
                f"block_size is {block_size}, and these kernels keep tiles of {decoder.cache_tile} tokens.",
                hint=f"Choose a multiple of {decoder.cache_tile}.",
            )
        n_slots = [n * block_size for n in n_blocks]
        try:
            self.layers = decoder.new_cache(n_slots, dtype)
        except RuntimeError as error:
            raise OptionError(
                f"There is no memory for a cache of {max(n_slots)} tokens.",
                hint="Lower cache_tokens, or max_running where layers see a window.",
            ) from error
        groups = decoder.spec.cache_groups
        self.bytes_per_token: float = sum(
            self.layers[layer].nbytes / n for group, n in zip(groups, n_slots, strict=True) for layer in group.layers
        )
        """Of one token in all layers."""
        self._specs = [group.spec for group in groups]
        self.device = decoder.device
        self.in_main_memory = self.device.type == "cpu"
        self._block_size = block_size
        self._offsets = torch.arange(block_size, device=self.device)
        self._tables: WeakKeyDictionary[BlockTable, _SlotTable] = WeakKeyDictionary()

    @property
    def nbytes(self) -> int:
        """Of all layers."""
        return sum(layer.nbytes for layer in self.layers)

    def write_slots(self, table: BlockTable, first: int, end: int) -> list[int]:
        """The slots of the positions [first, end)."""
        size = self._block_size
        return [table.block_at(position // size) * size + position % size for position in range(first, end)]

    def view(
        self, tables: Sequence[Sequence[BlockTable]], ends: Sequence[int], write_slots: Sequence[Tensor]
    ) -> CacheView:
        """What a step sees of the cache: `tables` by sequence and group, `ends` by sequence, `write_slots` by group."""
        groups = {}
        for group, (spec, slots) in enumerate(zip(self._specs, write_slots, strict=True)):
            own = [of_sequence[group] for of_sequence in tables]
            firsts = tuple(table.first * self._block_size for table in own)
            seen = (self._slots(table)[first:end] for table, first, end in zip(own, firsts, ends, strict=True))
            groups[spec] = GroupView(slots, tuple(seen), firsts)
        return CacheView(self.layers, groups)

    def _slots(self, table: BlockTable) -> Tensor:
        """int64: the slot of each position before the table's end, of those that it holds.

        Kept between steps and extended by the blocks that are new, so a decode step costs a slice.
        """
        own = self._tables.setdefault(table, _SlotTable(self._offsets.new_empty(0), 0))
        if own.n_blocks < table.end:
            known = max(own.n_blocks, table.first)
            fresh = torch.tensor(table.blocks[known - table.first :], device=self.device)
            start, end = known * self._block_size, table.end * self._block_size
            if own.slots.numel() < end:
                grown = own.slots.new_empty(max(end, 2 * own.slots.numel()))
                grown[: own.slots.numel()] = own.slots
                own.slots = grown
            own.slots[start:end] = (fresh[:, None] * self._block_size + self._offsets).flatten()
            own.n_blocks = table.end
        return own.slots
