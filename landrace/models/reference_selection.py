"""`ReferenceSelection`: the reference's operations that choose positions, and what a step's rows attend to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from landrace.kernels.layer_cache import LayerCache, kept_as
from landrace.kernels.reference.attention import AttentionPlan, plan_attention
from landrace.kernels.reference.dense import layer_norm, rms_norm
from landrace.kernels.reference.key_means import keep_means, kept_means, packed_means, select_by_means
from landrace.kernels.reference.pools import Closing, closing, mean_keys
from landrace.kernels.reference.rotary import rotate
from landrace.kernels.reference.selection import select, select_blocks, select_pools
from landrace.models.batch import ForwardBatch
from landrace.models.cache_spec import Paged
from landrace.models.mixer_spec import Gqa, Mla, RopeSpec
from landrace.models.params import LayerNorm, Norm, PlaceBias
from landrace.models.reference_streams import ReferenceStreams
from landrace.models.rope import rotary_tables
from landrace.models.selection_spec import BlockSelection, MeanSelection, PoolSelection, pool_caches


class ReferenceSelection(ReferenceStreams):
    """See `Ops`."""

    def __init__(self, batch: ForwardBatch) -> None:
        super().__init__()
        self._batch = batch
        self._attention_plans: dict[Paged | None, AttentionPlan] = {}
        """By cache group; under None where there is no cache, for all layers."""
        self._rotary: dict[RopeSpec, tuple[Tensor, Tensor]] = {}
        self._closings: dict[tuple[Paged, int, int], Closing] = {}
        self._chosen: tuple[Tensor, ...] = ()
        """By group of the attention plan: what the last indexer has chosen."""

    @torch.no_grad()
    def select_blocks(self, spec: Gqa, cache: int, q: Tensor, k: Tensor, norms: tuple[Norm, Norm]) -> None:
        own = spec.selection
        assert isinstance(own, BlockSelection)
        q, k = (
            rms_norm(x.view(x.shape[0], -1, own.head_dim), norm.weight, norm.eps)
            for x, norm in zip((q, k), norms, strict=True)
        )
        q, k = self._turned(spec.rope, q), self._index_rows(spec, cache, self._turned(spec.rope, k))
        sizes = {"block": own.block, "top_k": own.top_k, "n_local": own.n_local}
        plan = self._attention_plan(spec.cache)
        self._chosen = select_blocks(q, k, plan, n_heads=spec.n_heads, mask=spec.mask, **sizes)

    @torch.no_grad()
    def select_by_means(self, spec: Gqa, cache: int, q: Tensor, past: tuple[Tensor, Tensor]) -> None:
        own, memory = spec.selection, self._index(cache)
        assert isinstance(own, MeanSelection)
        plan, keys = self._attention_plan(spec.cache), past[0]
        if memory is None:
            means = packed_means(keys, plan)
        else:
            keep_means(keys, memory.keys, self._batch.starts, self._places(spec.cache)[0])
            means = kept_means(memory.keys, plan, spec.n_kv_heads)
        sizes = {"block": own.block, "top_k": own.top_k, "n_first": own.n_first, "n_local": own.n_local}
        self._chosen = select_by_means(q.float(), means, plan, scale=spec.score_factor, onset=own.onset, **sizes)

    @torch.no_grad()
    def select_pools(self, spec: Gqa, cache: int, q: Tensor, k: Tensor, norms: tuple[Norm, Norm]) -> None:
        own, (q_norm, k_norm) = spec.selection, norms
        assert isinstance(own, PoolSelection)
        q = rms_norm(q.view(-1, own.n_heads, own.head_dim), q_norm.weight, q_norm.eps)

        def finished(keys: Tensor, firsts: Tensor) -> Tensor:
            keys = rms_norm(keys, k_norm.weight, k_norm.eps)
            if spec.rope is None:
                return keys
            return rotate(keys[:, None], *rotary_tables(spec.rope, firsts))[:, 0]

        keys = self._pool_keys(spec, cache, k.float(), None, finished)
        weights = q.new_full(q.shape[:2], own.scale)
        self._choose_pools(spec, self._turned(spec.rope, q), keys, weights, own.top_k)

    @torch.no_grad()
    def select(self, spec: Mla, cache: int, q: Tensor, k: Tensor, weights: Tensor, norm: LayerNorm) -> None:
        own = spec.indexer
        assert own is not None
        q = q.view(-1, own.n_heads, own.head_dim).float()
        k = layer_norm(k, norm.weight, norm.bias, norm.eps)[:, None]
        q, k = self._turned(spec.rope, q), self._index_rows(spec, cache, self._turned(spec.rope, k))
        plan = self._attention_plan(spec.cache)
        self._chosen = select(q, k, weights.float() * own.scale, plan, top_k=own.top_k, mask=spec.mask)

    @torch.no_grad()
    def select_gated_pools(
        self,
        spec: Mla,
        cache: int,
        q: Tensor,
        k: Tensor,
        weights: Tensor,
        gates: Tensor,
        norm: LayerNorm,
        bias: PlaceBias,
    ) -> None:
        own = spec.indexer
        assert own is not None
        k = layer_norm(k, norm.weight, norm.bias, norm.eps)
        keys = self._pool_keys(spec, cache, torch.cat((k, gates.float()), -1), bias.weight, lambda keys, firsts: keys)
        q, weights = q.view(-1, own.n_heads, own.head_dim).float(), weights.float() * own.scale
        self._choose_pools(spec, q, keys, weights, own.top_k // own.pool)

    def _pool_keys(
        self,
        spec: Gqa | Mla,
        cache: int,
        rows: Tensor,
        bias: Tensor | None,
        finished: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """[n, head_dim] of the pools that this step makes whole or, where there is a cache, of all: what `finished`
        makes of their means (`mean_keys`) and their first positions."""
        of_inputs, of_pools = pool_caches(spec.pool)
        own, memory = self._closing(of_inputs, spec.pool, spec.pool), self._index(cache)
        if memory is not None:
            assert memory.inputs is not None
            rows = self._put(memory.inputs.keys, of_inputs, rows[:, None])[:, 0]
        keys = mean_keys(rows[own.sources].float(), bias)
        keys = finished(keys, self._batch.positions[own.rows] + 1 - spec.pool)
        return keys if memory is None else self._put(memory.keys, of_pools, keys[:, None], own.rows)[:, 0]

    def _choose_pools(self, spec: Gqa | Mla, q: Tensor, keys: Tensor, weights: Tensor, n_pools: int) -> None:
        plan, places = self._attention_plan(spec.cache), self._entry_places(pool_caches(spec.pool)[1])
        sizes = {"size": spec.pool, "n_pools": n_pools}
        self._chosen = select_pools(q, keys, places, weights, plan, mask=spec.mask, **sizes)

    def _turned(self, rope: RopeSpec | None, x: Tensor) -> Tensor:
        return x if rope is None else rotate(x, *self._tables(rope))

    def _index_rows(self, spec: Gqa | Mla, cache: int, rows: Tensor) -> Tensor:
        """What an indexer keeps: that of the step's rows or, where there is a cache, all."""
        memory = self._index(cache)
        return rows if memory is None else self._put(memory.keys, spec.cache, rows)

    def _index(self, cache: int) -> LayerCache | None:
        """What an indexer keeps between steps."""
        if self._batch.cache is None:
            return None
        layer = self._batch.cache.layers[cache]
        assert isinstance(layer, LayerCache) and layer.index is not None
        return layer.index

    def _put(self, memory: Tensor, kept: Paged, rows: Tensor, which: Tensor | None = None) -> Tensor:
        """The memory with the rows in it, of the step's rows or of some of them."""
        assert self._batch.cache is not None
        slots = self._batch.cache.groups[kept].write_slots
        return memory.index_copy_(0, slots if which is None else slots[which], kept_as(rows, memory.dtype))

    def _closing(self, kept: Paged, size: int, span: int) -> Closing:
        """What is made of every `size` positions that are kept so."""
        key = kept, size, span
        if key not in self._closings:
            places = self._places(kept)
            self._closings[key] = closing(self._batch.positions, self._batch.starts, *places, size, span)
        return self._closings[key]

    def _places(self, kept: Paged) -> tuple[Sequence[Tensor], Sequence[int]]:
        """By sequence where its positions lie, among the step's rows or in the cache, and the first one that does."""
        starts, cache = self._batch.starts, self._batch.cache
        if cache is None:
            return self._ranges(starts), [0] * (len(starts) - 1)
        view = cache.groups[kept]
        return view.sequence_slots, view.first_positions

    def _entry_places(self, kept: Paged) -> Sequence[Tensor]:
        """By sequence where its entries of several positions lie: among those that the step makes, or in the cache."""
        starts, cache = self._batch.starts, self._batch.cache
        if cache is not None:
            return cache.groups[kept].sequence_slots
        return self._ranges([0, *accumulate((end - start) // kept.every for start, end in pairwise(starts))])

    def _ranges(self, bounds: Sequence[int]) -> list[Tensor]:
        device = self._batch.token_ids.device
        return [torch.arange(start, end, device=device) for start, end in pairwise(bounds)]

    def _attention_plan(self, kept: Paged) -> AttentionPlan:
        batch, device = self._batch, self._batch.token_ids.device
        key = None if batch.cache is None else kept
        if key not in self._attention_plans:
            if batch.cache is None:
                self._attention_plans[key] = plan_attention(batch.starts, None, device)
            else:
                view = batch.cache.groups[kept]
                plan = plan_attention(batch.starts, view.sequence_slots, device, view.first_positions)
                self._attention_plans[key] = plan
        return self._attention_plans[key]

    def _tables(self, rope: RopeSpec) -> tuple[Tensor, Tensor]:
        if rope not in self._rotary:
            self._rotary[rope] = rotary_tables(rope, self._batch.positions)
        return self._rotary[rope]
