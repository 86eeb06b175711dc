"""`KVCache`: the keys and values of every layer, and where each running request's lie in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from landrace.engine.request import Request
from landrace.errors import OptionError
from landrace.models.serving import ServingDecoder


@dataclass
class _SlotTable:
    slots: Tensor
    n_blocks: int
    preemptions: int
    """Of the request when the table was begun: a pre-empted request comes back with other blocks."""


class KVCache:
    """`layers`: what the decoder's `new_cache` makes for n_blocks * block_size tokens.

    Raises OptionError when the memory cannot be had or the decoder keeps no such cache.
    """

    def __init__(self, decoder: ServingDecoder, n_blocks: int, block_size: int, dtype: torch.dtype | None) -> None:
        if block_size % decoder.cache_tile:
            raise OptionError(
                f"block_size is {block_size}, and these kernels keep tiles of {decoder.cache_tile} tokens.",
                hint=f"Choose a multiple of {decoder.cache_tile}.",
            )
        n_slots = n_blocks * block_size
        try:
            self.layers = decoder.new_cache(n_slots, dtype)
        except RuntimeError as error:
            raise OptionError(
                f"There is no memory for a cache of {n_slots} tokens.", hint="Lower cache_tokens."
            ) from error
        self.bytes_per_token = sum(layer.nbytes for layer in self.layers) / n_slots
        self.device = decoder.device
        self.in_main_memory = self.device.type == "cpu"
        self._block_size = block_size
        self._offsets = torch.arange(block_size, device=self.device)
        self._tables: dict[Request, _SlotTable] = {}

    def slots(self, request: Request) -> Tensor:
        """[at least the tokens of the request's blocks] int64: the cache slot of each of its positions.

        Kept between steps and extended by the blocks that are new, so a decode step costs a slice.
        """
        table = self._tables.get(request)
        if table is None or table.preemptions != request.preemptions:
            table = _SlotTable(self._offsets.new_empty(0), 0, request.preemptions)
            self._tables[request] = table
        if table.n_blocks < len(request.blocks):
            fresh = torch.tensor(request.blocks[table.n_blocks :], device=self.device)
            start, end = table.n_blocks * self._block_size, len(request.blocks) * self._block_size
            if table.slots.numel() < end:
                grown = table.slots.new_empty(max(end, 2 * start))
                grown[:start] = table.slots[:start]
                table.slots = grown
            table.slots[start:end] = (fresh[:, None] * self._block_size + self._offsets).flatten()
            table.n_blocks = len(request.blocks)
        return table.slots

    def write_slots(self, request: Request, first: int, end: int) -> list[int]:
        """The cache slots of the positions [first, end)."""
        size, blocks = self._block_size, request.blocks
        return [blocks[position // size] * size + position % size for position in range(first, end)]

    def drop(self, request: Request) -> None:
        """Forgets a request's slots; its blocks are the pool's business."""
        self._tables.pop(request, None)

    def clear(self) -> None:
        """Forgets every request's slots."""
        self._tables.clear()
