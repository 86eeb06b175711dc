"""`ReferenceSelection`: the reference's operations that choose positions, and what a step's rows attend to."""

from __future__ import annotations

import torch
from torch import Tensor

from landrace.kernels.layer_cache import LayerCache, kept_as
from landrace.kernels.reference.attention import AttentionPlan, plan_attention
from landrace.kernels.reference.dense import layer_norm, rms_norm
from landrace.kernels.reference.key_means import keep_means, kept_means, packed_means, select_by_means
from landrace.kernels.reference.rotary import rotate
from landrace.kernels.reference.selection import Pooling, select, select_blocks, select_pools
from landrace.models.batch import ForwardBatch
from landrace.models.cache_spec import Paged
from landrace.models.mixer_spec import Gqa, Mla, RopeSpec
from landrace.models.params import LayerNorm, Norm, PlaceBias
from landrace.models.reference_streams import ReferenceStreams
from landrace.models.rope import rotary_tables
from landrace.models.selection_spec import BlockSelection, MeanSelection, PoolSelection


class ReferenceSelection(ReferenceStreams):
    """See `Ops`."""

    def __init__(self, batch: ForwardBatch) -> None:
        super().__init__()
        self._batch = batch
        self._attention_plans: dict[Paged | None, AttentionPlan] = {}
        """By cache group; under None where there is no cache, for all layers."""
        self._rotary: dict[RopeSpec, tuple[Tensor, Tensor]] = {}
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
        own, view = spec.selection, self._batch.cache
        assert isinstance(own, MeanSelection)
        plan, keys = self._attention_plan(spec.cache), past[0]
        if view is None:
            means = packed_means(keys, plan)
        else:
            layer = view.layers[cache]
            assert isinstance(layer, LayerCache) and layer.index is not None
            keep_means(keys, layer.index.keys, self._batch.starts, view.groups[spec.cache].sequence_slots)
            means = kept_means(layer.index.keys, plan, spec.n_kv_heads)
        sizes = {"block": own.block, "top_k": own.top_k, "n_first": own.n_first, "n_local": own.n_local}
        self._chosen = select_by_means(q.float(), means, plan, scale=spec.score_factor, onset=own.onset, **sizes)

    @torch.no_grad()
    def select_pools(self, spec: Gqa, cache: int, q: Tensor, k: Tensor, norms: tuple[Norm, Norm]) -> None:
        own, (q_norm, k_norm) = spec.selection, norms
        assert isinstance(own, PoolSelection)
        q = rms_norm(q.view(-1, own.n_heads, own.head_dim), q_norm.weight, q_norm.eps)

        def finish(keys: Tensor) -> Tensor:
            keys = rms_norm(keys, k_norm.weight, k_norm.eps)
            if spec.rope is None:
                return keys
            firsts = own.pool * torch.arange(keys.shape[1], device=keys.device)
            cos, sin = rotary_tables(spec.rope, firsts)
            return rotate(keys.transpose(0, 1), cos, sin).transpose(0, 1)

        self._choose_pools(
            spec, self._turned(spec.rope, q), self._index_rows(spec, cache, k[:, None].float()),
            q.new_full(q.shape[:2], own.scale), Pooling(own.pool, finish=finish), own.top_k,
        )  # fmt: skip

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
        rows = self._index_rows(spec, cache, torch.cat((k, gates.float()), -1)[:, None])
        q, weights = q.view(-1, own.n_heads, own.head_dim).float(), weights.float() * own.scale
        self._choose_pools(spec, q, rows, weights, Pooling(own.pool, bias.weight), own.top_k // own.pool)

    def _choose_pools(
        self, spec: Gqa | Mla, q: Tensor, rows: Tensor, weights: Tensor, pooling: Pooling, n_pools: int
    ) -> None:
        plan = self._attention_plan(spec.cache)
        self._chosen = select_pools(q, rows, weights, plan, pooling=pooling, n_pools=n_pools, mask=spec.mask)

    def _turned(self, rope: RopeSpec | None, x: Tensor) -> Tensor:
        return x if rope is None else rotate(x, *self._tables(rope))

    def _index_rows(self, spec: Gqa | Mla, cache: int, rows: Tensor) -> Tensor:
        """What an indexer keeps: that of the step's rows or, where there is a cache, all."""
        if self._batch.cache is None:
            return rows
        layer = self._batch.cache.layers[cache]
        assert isinstance(layer, LayerCache) and layer.index is not None
        return self._written(layer.index.keys, spec, rows)

    def _written(self, memory: Tensor, spec: Gqa | Mla, rows: Tensor) -> Tensor:
        """The memory, with the step's rows in it."""
        assert self._batch.cache is not None
        return memory.index_copy_(0, self._batch.cache.groups[spec.cache].write_slots, kept_as(rows, memory.dtype))

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
