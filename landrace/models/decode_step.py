"""A step of one row a sequence on tensors that stay where they are: what a GPU can repeat without the host."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from landrace.kernels.gpu.paged import past_of, plan_rows
from landrace.kernels.layer_cache import LayerCache, LayerMemory
from landrace.kernels.mask import FULL
from landrace.kernels.reference.attention import decode_plan
from landrace.models.batch import CacheView, ForwardBatch, GroupView
from landrace.models.cache_spec import Paged
from landrace.models.decoder import Decoder
from landrace.models.ffn_spec import Dense
from landrace.models.mixer_spec import Gqa, Mixer, Mla
from landrace.models.reference_ops import ReferenceOps
from landrace.models.rope import inverse_frequencies, tables_of
from landrace.models.spec import ModelSpec


def repeatable(spec: ModelSpec, operations: type[ReferenceOps] = ReferenceOps) -> bool:
    """Whether a step of the model asks the host nothing: indexers choose positions and states begin by numbers that the
    host reads, and so do routers where the operations do not compute whatever experts are chosen."""
    return all(
        (isinstance(layer.ffn, Dense) or operations.any_experts) and _repeatable(layer.mixer) for layer in spec.layers
    )


def _repeatable(mixer: Mixer) -> bool:
    match mixer:
        case Mla():
            return mixer.selection is None
        case Gqa():
            return mixer.selection is None and not mixer.alibi and mixer.chunks is None
        case _:
            return False


class DecodeStep:
    """`n_rows` sequences, each with at most `n_keys` slots by cache group. A batch is padded to that; rows that nobody
    asked for write the last slot of every layer, which must be nobody's.

    Attention finds a sequence's slots in a table of all of them or, where `operations` read the cache where it lies, by
    their address.
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: tuple[LayerMemory, ...],
        n_rows: int,
        n_keys: Mapping[Paged, int],
        operations: type[ReferenceOps] = ReferenceOps,
    ) -> None:
        device = decoder.device
        self._decoder = decoder
        self._operations = operations
        self._n_rows = n_rows
        self._ids, self._positions = torch.zeros(2, n_rows, dtype=torch.long, device=device)
        self._frequencies = {
            layer.mixer.rope: inverse_frequencies(layer.mixer.rope).to(device)
            for layer in decoder.spec.layers
            if isinstance(layer.mixer, Gqa | Mla) and layer.mixer.rope is not None
        }
        self._spare: dict[Paged, Tensor] = {}
        """By group: the last slot."""
        for group in decoder.spec.cache_groups:
            kept = layers[group.layers[0]]
            assert isinstance(kept, LayerCache) and isinstance(group.spec, Paged)
            self._spare[group.spec] = torch.tensor([kept.keys.shape[0] - 1], device=device)
        self._writes = {kept: spare.repeat(n_rows) for kept, spare in self._spare.items()}
        tabled, paged = (groups_read(decoder.spec, operations, in_place=found) for found in (False, True))
        self._slots = {kept: self._spare[kept].repeat(n_rows, n_keys[kept]) for kept in tabled}
        self._lengths = {kept: torch.ones(n_rows, dtype=torch.long, device=device) for kept in tabled}
        self._firsts = {kept: torch.zeros(n_rows, dtype=torch.long, device=device) for kept in tabled}
        self._nobody = {kept: past_of([self._spare[kept]], [0]).to(device) for kept in paged}
        """By group: the past of a row that nobody asked for."""
        self._paged = {
            kept: plan_rows(self._nobody[kept].repeat(n_rows, 1), n_keys[kept], whole=kept.mask == FULL)
            for kept in paged
        }

    def fill(self, batch: ForwardBatch) -> None:
        """Takes the batch's numbers: at most `n_rows` sequences of a row each, none with more keys than `n_keys`."""
        assert batch.cache is not None
        n = batch.token_ids.numel()
        for own, given in ((self._ids, batch.token_ids), (self._positions, batch.positions)):
            own[:n] = given
            own[n:] = 0
        for kept, view in batch.cache.groups.items():
            self._writes[kept][:n] = view.write_slots
            self._writes[kept][n:] = self._spare[kept]
            if kept in self._paged:
                past = self._paged[kept].past
                past[:n] = past_of(view.sequence_slots, view.first_positions)
                past[n:] = self._nobody[kept]
            if kept in self._slots:
                self._fill_table(kept, view, n)

    def _fill_table(self, kept: Paged, view: GroupView, n: int) -> None:
        slots = self._slots[kept]
        told = [[given.numel() for given in view.sequence_slots], list(view.first_positions)]
        self._lengths[kept][n:] = 1
        self._firsts[kept][n:] = 0
        self._lengths[kept][:n], self._firsts[kept][:n] = torch.tensor(told, device=slots.device)
        slots[n:] = self._spare[kept]
        for row, given in zip(slots, view.sequence_slots, strict=False):
            # A masked score of another's NaN would still be NaN: padding repeats the sequence's own first key.
            row[: given.numel()] = given
            row[given.numel() :] = given[0]

    def compute(self, layers: tuple[LayerMemory, ...]) -> Tensor:
        """Float32 logits [n_rows, vocab] of the numbers that were filled in."""
        views = {kept: GroupView(writes, (), ()) for kept, writes in self._writes.items()}
        starts = tuple(range(self._n_rows + 1))
        batch = ForwardBatch(self._ids, self._positions, starts, cache=CacheView(layers, views))
        ops = self._operations(batch, self._decoder.adapters, self._decoder.product_dtype, None)
        ops.take_plans(
            {kept: decode_plan(slots, self._lengths[kept], self._firsts[kept]) for kept, slots in self._slots.items()},
            self._paged,
            {rope: tables_of(rope, own, self._positions) for rope, own in self._frequencies.items()},
        )
        return self._decoder.compute(ops)


def groups_read(spec: ModelSpec, operations: type[ReferenceOps], *, in_place: bool) -> set[Paged]:
    """The cache groups with a layer whose attention reads it where it lies, or with one whose does not."""
    mixers = [layer.mixer for layer in spec.layers if isinstance(layer.mixer, Gqa | Mla)]
    return {mixer.cache for mixer in mixers if operations.in_place(mixer) == in_place}
