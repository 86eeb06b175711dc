"""A step on tensors that stay where they are: what a GPU can repeat without the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from landrace.kernels.gpu.paged import HeadSizes, PagedPlan, spans_seen, tiles_of
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

_WASTE = 4
"""A table of slots may have so many times as many padded keys as real ones: longer ones are read whole."""
_FREE_KEYS = 16384
"""Padded keys that do not matter."""
_SEQUENCES = 64
"""So many sequences and wanted rows at most, where not all have one row."""
_FEW_ROWS, _MANY_SPANS = 64, 16
"""So few rows with so long a past are better off with programs for each span, which a repeated step has for single rows
alone."""


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


@dataclass(frozen=True)
class StepSizes:
    """How large a step is when it is padded."""

    n_rows: int
    n_logits: int
    single: bool
    """Whether sequences have one row each."""
    n_keys: tuple[tuple[Paged, int], ...]
    """By cache group: where there are tables of slots, how long; else how many spans are shared out."""


def sizes_of(batch: ForwardBatch, spec: ModelSpec, operations: type[ReferenceOps]) -> StepSizes | None:
    """None: the step is not to be repeated."""
    if batch.cache is None or batch.adapters or batch.logit_rows is None or batch.hidden is not None:
        return None
    counts = [end - start for start, end in pairwise(batch.starts)]
    n_rows, single = batch.token_ids.numel(), max(counts) == 1
    if not single and max(len(counts), batch.logit_rows.numel()) > _SEQUENCES:
        return None
    padded, n_keys = _next_size(n_rows, 1), []
    tabled = groups_read(spec, operations, in_place=False)
    for kept, view in batch.cache.groups.items():
        if kept in tabled:
            lengths = [slots.numel() for slots in view.sequence_slots]
            longest = _next_size(max(lengths), 128)
            if not single or padded * longest > max(_FREE_KEYS, _WASTE * sum(lengths)):
                return None
            n_keys.append((kept, longest))
            continue
        spans = spans_seen(view.sequence_slots, view.first_positions)
        if not single and n_rows < _FEW_ROWS and spans > _MANY_SPANS:
            return None
        n_keys.append((kept, _next_size(spans, 1) if single else 1))
    return StepSizes(padded, _next_size(batch.logit_rows.numel(), 1), single, tuple(n_keys))


class RepeatedStep:
    """A batch is padded to `sizes`. Rows that nobody asked for write the last slot of every layer, which must be
    nobody's.

    Attention finds a sequence's slots in a table of all of them or, where `operations` read the cache where it lies, by
    their address.
    """

    def __init__(
        self, decoder: Decoder, layers: tuple[LayerMemory, ...], sizes: StepSizes, operations: type[ReferenceOps]
    ) -> None:
        device, n_rows, n_keys = decoder.device, sizes.n_rows, dict(sizes.n_keys)
        self._decoder = decoder
        self._operations = operations
        self._sizes = sizes
        self._ids, self._positions = torch.zeros(2, n_rows, dtype=torch.long, device=device)
        self._wanted = torch.zeros(sizes.n_logits, dtype=torch.long, device=device)
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
        tabled = groups_read(decoder.spec, operations, in_place=False)
        self._slots = {kept: self._spare[kept].repeat(n_rows, n_keys[kept]) for kept in tabled}
        self._lengths = {kept: torch.ones(n_rows, dtype=torch.long, device=device) for kept in tabled}
        self._firsts = {kept: torch.zeros(n_rows, dtype=torch.long, device=device) for kept in tabled}
        most_rows = 1 if sizes.single else n_rows
        self._paged: dict[tuple[Paged, HeadSizes], PagedPlan] = {}
        for read, cut in _cut(decoder.spec, operations, decoder.product_dtype):
            n_tiles = min(n_rows, n_rows // cut.together(most_rows) + _SEQUENCES)
            tiles = torch.zeros(n_tiles, 5, dtype=torch.long, device=device)
            self._paged[read, cut] = PagedPlan(tiles, n_keys[read], most_rows)

    def fill(self, batch: ForwardBatch) -> None:
        """Takes the numbers of a batch of these sizes (`sizes_of`)."""
        assert batch.cache is not None and batch.logit_rows is not None
        own: list[tuple[Tensor, Tensor, Tensor | int]] = [
            (self._ids, batch.token_ids, 0),
            (self._positions, batch.positions, 0),
        ]
        own += [(self._wanted, batch.logit_rows, 0)]
        own += [(self._writes[kept], view.write_slots, self._spare[kept]) for kept, view in batch.cache.groups.items()]
        for (kept, sizes), plan in self._paged.items():
            view = batch.cache.groups[kept]
            tiles = tiles_of(batch.starts, view.sequence_slots, view.first_positions, sizes.together(plan.most_rows))
            own.append((plan.tiles, torch.tensor(tiles), 0))
        for memory, given, padding in own:
            memory[: len(given)] = given
            if len(given) < len(memory):
                memory[len(given) :] = padding
        for kept in self._slots:
            self._fill_table(kept, batch.cache.groups[kept], batch.token_ids.numel())

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
        """Float32 logits [n_logits, vocab] of the numbers that were filled in."""
        views = {kept: GroupView(writes, (), ()) for kept, writes in self._writes.items()}
        starts = tuple(range(self._sizes.n_rows + 1))
        batch = ForwardBatch(self._ids, self._positions, starts, self._wanted, CacheView(layers, views))
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


def _cut(spec: ModelSpec, operations: type[ReferenceOps], dtype: torch.dtype) -> Sequence[tuple[Paged, HeadSizes]]:
    """What the layers need that read their cache where it lies."""
    mixers = [layer.mixer for layer in spec.layers if isinstance(layer.mixer, Gqa)]
    sizes = (
        (one.cache, HeadSizes(one.n_heads // one.n_kv_heads, one.head_dim, dtype))
        for one in mixers
        if operations.in_place(one)
    )
    return list(dict.fromkeys(sizes))


def _next_size(n: int, least: int) -> int:
    """`least` times a power of two, or one and a half times that."""
    size = least
    while size < n:
        if size % 2 == 0 and size * 3 // 2 >= n:
            return size * 3 // 2
        size *= 2
    return size
