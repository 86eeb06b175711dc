"""A step of one row a sequence on tensors that stay where they are: what a GPU can repeat without the host."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from landrace.kernels.layer_cache import LayerCache, LayerMemory
from landrace.kernels.reference.attention import decode_plan
from landrace.models.batch import CacheView, ForwardBatch, GroupView
from landrace.models.cache_spec import Paged
from landrace.models.decoder import Decoder
from landrace.models.ffn_spec import Dense
from landrace.models.mixer_spec import Gqa, Mixer, Mla
from landrace.models.reference_ops import ReferenceOps
from landrace.models.rope import inverse_frequencies, tables_of
from landrace.models.spec import ModelSpec


def repeatable(spec: ModelSpec) -> bool:
    """Whether a step of the model asks the host nothing: routers choose experts, indexers choose positions and states
    begin by numbers that the reference kernels read."""
    return all(isinstance(layer.ffn, Dense) and _repeatable(layer.mixer) for layer in spec.layers)


def _repeatable(mixer: Mixer) -> bool:
    match mixer:
        case Mla():
            return mixer.selection is None
        case Gqa():
            return mixer.selection is None and not mixer.alibi and mixer.chunks is None
        case _:
            return False


class DecodeStep:
    """`n_rows` sequences, each with a table of `n_keys` slots by cache group. A batch is padded to that; rows that
    nobody asked for write the last slot of every layer, which must be nobody's."""

    def __init__(
        self, decoder: Decoder, layers: tuple[LayerMemory, ...], n_rows: int, n_keys: Mapping[Paged, int]
    ) -> None:
        device = decoder.device
        self._decoder = decoder
        self._n_rows = n_rows
        self._ids, self._positions = torch.zeros(2, n_rows, dtype=torch.long, device=device)
        self._frequencies = {
            layer.mixer.rope: inverse_frequencies(layer.mixer.rope).to(device)
            for layer in decoder.spec.layers
            if isinstance(layer.mixer, Gqa | Mla) and layer.mixer.rope is not None
        }
        self._spare = {}
        for group in decoder.spec.cache_groups:
            kept = layers[group.layers[0]]
            assert isinstance(kept, LayerCache) and isinstance(group.spec, Paged)
            self._spare[group.spec] = kept.keys.shape[0] - 1
        self._writes = {kept: torch.full((n_rows,), spare, device=device) for kept, spare in self._spare.items()}
        self._slots = {
            kept: torch.full((n_rows, n_keys[kept]), spare, device=device) for kept, spare in self._spare.items()
        }
        self._lengths = {kept: torch.ones(n_rows, dtype=torch.long, device=device) for kept in self._spare}
        self._firsts = {kept: torch.zeros(n_rows, dtype=torch.long, device=device) for kept in self._spare}

    def fill(self, batch: ForwardBatch) -> None:
        """Takes the batch's numbers: at most `n_rows` sequences of a row each, none with more keys than `n_keys`."""
        assert batch.cache is not None
        n = batch.token_ids.numel()
        for own, given in ((self._ids, batch.token_ids), (self._positions, batch.positions)):
            own[:n] = given
            own[n:] = 0
        for kept, view in batch.cache.groups.items():
            spare, slots = self._spare[kept], self._slots[kept]
            self._writes[kept][:n] = view.write_slots
            self._writes[kept][n:] = spare
            told = [[given.numel() for given in view.sequence_slots], list(view.first_positions)]
            self._lengths[kept][n:] = 1
            self._firsts[kept][n:] = 0
            self._lengths[kept][:n], self._firsts[kept][:n] = torch.tensor(told, device=slots.device)
            slots[n:] = spare
            for row, given in zip(slots, view.sequence_slots, strict=False):
                # A masked score of another's NaN would still be NaN: padding repeats the sequence's own first key.
                row[: given.numel()] = given
                row[given.numel() :] = given[0]

    def compute(self, layers: tuple[LayerMemory, ...]) -> Tensor:
        """Float32 logits [n_rows, vocab] of the numbers that were filled in."""
        views = {kept: GroupView(writes, (), ()) for kept, writes in self._writes.items()}
        starts = tuple(range(self._n_rows + 1))
        batch = ForwardBatch(self._ids, self._positions, starts, cache=CacheView(layers, views))
        ops = ReferenceOps(batch, self._decoder.adapters, self._decoder.product_dtype, None)
        ops.take_plans(
            {kept: decode_plan(slots, self._lengths[kept], self._firsts[kept]) for kept, slots in self._slots.items()},
            {rope: tables_of(rope, own, self._positions) for rope, own in self._frequencies.items()},
        )
        return self._decoder.compute(ops)
