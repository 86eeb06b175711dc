"""`CacheMemory`: the tensors behind the bookkeeping, and where each request's positions lie in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from landrace.engine.cache.paged import BlockTable
from landrace.engine.cache.state import StateTable
from landrace.errors import OptionError
from landrace.models.batch import INT4, CacheView, GroupView, LayerState, StateView
from landrace.models.cache_spec import Kept, Paged
from landrace.models.serving import ServingDecoder

CACHE_DTYPES = {
    "auto": None,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
    "int4": INT4,
}
"""By the names of `EngineOptions.cache_dtype`; None: as the decoder chooses."""


@dataclass
class _SlotTable:
    slots: Tensor
    n_blocks: int


def _every(kept: Kept) -> int:
    """Positions of an entry."""
    return kept.every if isinstance(kept, Paged) else 1


class CacheMemory:
    """`layers`: what the decoder's `new_cache` makes of `n_slots`: by group, for how many tokens, in blocks of
    `block_size`, or for how many states, and `n_guesses` beside each.

    Raises OptionError when the memory cannot be had or the decoder keeps no such cache.
    """

    def __init__(
        self,
        decoder: ServingDecoder,
        n_slots: Sequence[int],
        block_size: int,
        dtype: torch.dtype | None,
        n_guesses: int = 0,
    ) -> None:
        if block_size % decoder.cache_tile:
            raise OptionError(
                f"block_size is {block_size}, and these kernels keep tiles of {decoder.cache_tile} tokens.",
                hint=f"Choose a multiple of {decoder.cache_tile}.",
            )
        try:
            self.layers = decoder.new_cache(n_slots, dtype, n_guesses)
        except RuntimeError as error:
            raise OptionError(
                f"There is no memory for a cache of {max(n_slots)} tokens.",
                hint="Lower cache_tokens, or max_running where layers see a window or have states.",
            ) from error
        groups = decoder.spec.cache_groups
        self._each = [
            (group.spec, n_bytes / n)
            for group, n_bytes, n in zip(groups, decoder.spec.bytes_by_group(self.layers), n_slots, strict=True)
        ]
        self.bytes_per_token = sum(n_bytes / kept.every for kept, n_bytes in self._each if isinstance(kept, Paged))
        """Of one token in all layers."""
        self.bytes_per_state = sum(n_bytes for kept, n_bytes in self._each if not isinstance(kept, Paged))
        """Of one state in all layers."""
        self._groups = groups
        self._specs = [group.spec for group in groups]
        self._tiles = block_size // decoder.cache_tile
        """Of a block."""
        self.device = decoder.device
        self.in_main_memory = self.device.type == "cpu"
        self._block_size = block_size
        self._offsets = torch.arange(block_size, device=self.device)
        self._tables: WeakKeyDictionary[BlockTable, _SlotTable] = WeakKeyDictionary()

    @property
    def nbytes(self) -> int:
        """Of all layers."""
        return sum(n_bytes for layer in self.layers for n_bytes in layer.group_bytes)

    def bytes_of(self, tokens: int) -> int:
        """What a sequence of so many tokens holds: blocks of what its next token sees, and a state."""
        total = 0.0
        for spec, n_bytes in self._each:
            if isinstance(spec, Paged):
                size = self._block_size * spec.every
                gone = 0 if spec.reach is None else max(0, tokens - spec.reach) // size
                total += (-(-tokens // size) - gone) * self._block_size * n_bytes
            else:
                total += n_bytes
        return round(total)

    def places(self, table: BlockTable | StateTable, first: int, sure: int, end: int, group: int) -> list[int]:
        """The slots of the positions [first, end) in a group, of which those from `sure` on are guesses; or how they go
        through the request's state: see `StateView`."""
        if isinstance(table, StateTable):
            assert table.write is not None
            found = table.write if table.read is None else table.read
            return [found, table.write, first - table.length, max(0, end - max(first, sure))]
        size, every = self._block_size, _every(self._specs[group])
        entries = (position // every for position in range(first, end))
        return [table.block_at(entry // size) * size + entry % size for entry in entries]

    def copy(self, copies: Sequence[tuple[int, int, int]]) -> None:
        """Copies blocks of what is kept once for several positions, in order: the number of the group, from and to."""
        for group, source, target in copies:
            come, go = (slice(block * self._tiles, (block + 1) * self._tiles) for block in (source, target))
            for layer in self._groups[group].layers:
                memory = self.layers[layer]
                assert not isinstance(memory, LayerState)
                for tensor in memory.shared:
                    tensor[go] = tensor[come]

    def view(self, tables: Sequence[Sequence[Any]], ends: Sequence[int], places: Sequence[Tensor]) -> CacheView:
        """What a step sees of the cache: `tables` by sequence and group, `ends` by sequence, `places` by group."""
        groups, states = {}, None
        for group, (spec, slots) in enumerate(zip(self._specs, places, strict=True)):
            if not isinstance(spec, Paged):
                states = StateView(slots.view(-1, 4))
                continue
            groups[spec] = self.group_view([of_sequence[group] for of_sequence in tables], ends, slots, spec.every)
        return CacheView(self.layers, groups, states)

    def group_view(self, tables: Sequence[BlockTable], ends: Sequence[int], slots: Tensor, every: int = 1) -> GroupView:
        """What a step that writes to `slots` sees of one group's blocks: `tables` and `ends` by sequence."""
        firsts = tuple(table.first * self._block_size for table in tables)
        seen = (
            self._slots(table)[first : end // every] for table, first, end in zip(tables, firsts, ends, strict=True)
        )
        return GroupView(slots, tuple(seen), firsts, every)

    def _slots(self, table: BlockTable) -> Tensor:
        """int64: the slot of each position before the table's end, of those that it holds.

        Kept between steps and extended by the blocks that are new, so a decode step costs a slice.
        """
        own = self._tables.get(table)
        if own is None:
            own = self._tables[table] = _SlotTable(self._offsets.new_empty(0), 0)
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
