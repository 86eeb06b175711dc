"""`KVCache`: the keys and values of every layer, and where each running request's lie in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from landrace.engine.request import Request
from landrace.errors import OptionError
from landrace.models.spec import ModelSpec


@dataclass
class _SlotTable:
    slots: Tensor
    n_blocks: int
    preemptions: int
    """Of the request when the table was begun: a pre-empted request comes back with other blocks."""


class KVCache:
    """Float32 keys and values, one [n_blocks * block_size, n_kv_heads, head_dim] tensor of each a layer.

    Raises OptionError when the memory cannot be had. Zeroed, so that no row ever holds what was in memory before.
    """

    def __init__(self, spec: ModelSpec, n_blocks: int, block_size: int, device: torch.device) -> None:
        n_slots = n_blocks * block_size
        shapes = [(n_slots, layer.attention.n_kv_heads, layer.attention.head_dim) for layer in spec.layers]
        try:
            self.keys = tuple(torch.zeros(shape, device=device) for shape in shapes)
            self.values = tuple(torch.zeros(shape, device=device) for shape in shapes)
        except RuntimeError as error:
            megabytes = spec.cache_bytes_per_token * n_slots / 1e6
            raise OptionError(
                f"There is no memory for a cache of {n_slots} tokens ({megabytes:.0f} MB).", hint="Lower cache_tokens."
            ) from error
        self._block_size = block_size
        self._offsets = torch.arange(block_size, device=device)
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
            fresh = torch.tensor(request.blocks[table.n_blocks :], device=self._offsets.device)
            start, end = table.n_blocks * self._block_size, len(request.blocks) * self._block_size
            if table.slots.numel() < end:
                grown = table.slots.new_empty(max(end, 2 * start))
                grown[:start] = table.slots[:start]
                table.slots = grown
            table.slots[start:end] = (fresh[:, None] * self._block_size + self._offsets).flatten()
            table.n_blocks = len(request.blocks)
        return table.slots

    def drop(self, request: Request) -> None:
        """Forgets a request's slots; its blocks are the pool's business."""
        self._tables.pop(request, None)
