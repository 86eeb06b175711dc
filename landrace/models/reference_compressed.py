"""`ReferenceCompressed`: the reference's operations on rows that are compressed from the positions before them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from landrace.kernels.layer_cache import CompressedCache
from landrace.kernels.reference.attention import attention
from landrace.kernels.reference.compression import CompressedPlan, compressed, plan_compressed
from landrace.kernels.reference.dense import rms_norm
from landrace.kernels.reference.rotary import rotate_pairs
from landrace.models.batch import ForwardBatch
from landrace.models.compressed_spec import Compressed
from landrace.models.params import Norm, PlaceBias, Vector
from landrace.models.reference_selection import ReferenceSelection
from landrace.models.rope import rotary_tables


class ReferenceCompressed(ReferenceSelection):
    """See `Ops`."""

    def __init__(self, batch: ForwardBatch) -> None:
        super().__init__(batch)
        self._compressed_plans: dict[Compressed, tuple[CompressedPlan, tuple[Tensor, ...]]] = {}
        """What a step's attention reads, and where its queries look."""

    def keep_row(self, spec: Compressed, cache: int, q: Tensor, row: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
        turning = self._tables(spec.rope)
        heads = rms_norm(q.view(-1, spec.n_heads, spec.head_dim), None, norm.eps)
        kept = rotate_pairs(rms_norm(row, norm.weight, norm.eps)[:, None], *turning).to(q.dtype)
        if (memory := self._compressed_cache(cache)) is not None:
            kept = self._put(memory.keys.keys, spec.cache, kept)
        return rotate_pairs(heads, *turning).to(q.dtype), kept

    def compress(
        self, spec: Compressed, cache: int, values: Tensor, gates: Tensor, bias: PlaceBias, norm: Norm
    ) -> Tensor:
        return self._compress(spec, cache, 0, values, gates, bias, norm)

    def _compress(
        self, spec: Compressed, cache: int, number: int, values: Tensor, gates: Tensor, bias: PlaceBias, norm: Norm
    ) -> Tensor:
        """[N, 1, width]: the rows that this step closes or, where there is a cache, all. `number` 0: the layer's own,
        1: its indexer's."""
        assert spec.compression is not None
        own = self._closing(spec.cache, spec.compression.ratio, spec.compression.span)
        whole = self._compressed_cache(cache)
        memory = None if whole is None else whole.compressed[number]
        inputs = torch.cat((values, gates), -1)
        if memory is not None:
            assert memory.inputs is not None
            inputs = self._put(memory.inputs.keys, spec.cache, inputs)
        summed, weighing = inputs[own.sources].chunk(2, -1)
        rows = rms_norm(compressed(summed, weighing, bias.weight, own.there), norm.weight, norm.eps)[:, None]
        turning = rotary_tables(spec.rope, self._batch.positions[own.rows] + 1 - spec.compression.ratio)
        rows = rotate_pairs(rows, *turning).to(values.dtype)
        return rows if memory is None else self._put(memory.keys, spec.compressed_cache, rows, own.rows)

    @torch.no_grad()
    def select_compressed(
        self,
        spec: Compressed,
        cache: int,
        q: Tensor,
        weights: Tensor,
        values: Tensor,
        gates: Tensor,
        bias: PlaceBias,
        norm: Norm,
    ) -> None:
        assert spec.compression is not None and spec.compression.selection is not None
        selection = spec.compression.selection
        compressed = self._compress(spec, cache, 1, values, gates, bias, norm)
        heads = rotate_pairs(q.view(-1, selection.n_heads, selection.head_dim), *self._tables(spec.rope))
        plan, seen = self._compressed_plan(spec)
        keys = plan.gathered(None, compressed).to(heads.dtype)
        self._chosen = plan.chosen(heads, keys, weights.float() * selection.scale, seen, selection.top_k)

    def attend_compressed(
        self, spec: Compressed, q: Tensor, past: Tensor, compressed: Tensor | None, sinks: Vector
    ) -> Tensor:
        plan, seen = self._compressed_plan(spec)
        rows = plan.gathered(past, compressed)
        chosen = self._chosen if spec.compression is not None and spec.compression.selection is not None else seen
        mixed = attention(q, rows, rows, plan.plan, scale=spec.scale, mask=spec.mask, sinks=sinks.weight, chosen=chosen)
        cos, sin = self._tables(spec.rope)
        return rotate_pairs(mixed, cos, -sin).to(q.dtype).flatten(1)

    def _compressed_plan(self, spec: Compressed) -> tuple[CompressedPlan, tuple[Tensor, ...]]:
        if spec not in self._compressed_plans:
            starts, ratio = self._batch.starts, 1
            entries: Sequence[Tensor] = self._ranges([0] * len(starts))
            if spec.compression is not None:
                ratio, entries = spec.compression.ratio, self._entry_places(spec.compressed_cache)
            plan = plan_compressed(starts, *self._places(spec.cache), entries, ratio)
            self._compressed_plans[spec] = plan, plan.seen(self._batch.positions, spec.window)
        return self._compressed_plans[spec]

    def _compressed_cache(self, cache: int) -> CompressedCache | None:
        if self._batch.cache is None:
            return None
        memory = self._batch.cache.layers[cache]
        assert isinstance(memory, CompressedCache)
        return memory
