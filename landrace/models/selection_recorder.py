"""`SelectionRecorder`: a recorder's operations that choose positions, and its numbers of layers and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from landrace.kernels.cpu import selection
from landrace.kernels.cpu.cache import IndexKeys
from landrace.kernels.cpu.program import Program
from landrace.models.cache_shapes import heads_of, index_shapes
from landrace.models.cache_spec import Paged
from landrace.models.mixer_spec import Gqa, Mla, RopeSpec
from landrace.models.packed_weights import PackedWeights
from landrace.models.params import LayerNorm, Norm, PlaceBias
from landrace.models.selection_spec import BlockSelection, MeanSelection, PoolSelection, Selection, pool_caches
from landrace.models.stream_recorder import StreamRecorder


class SelectionRecorder(StreamRecorder):
    """See `Ops`."""

    def __init__(
        self,
        program: Program,
        weights: PackedWeights,
        cache_groups: Sequence[Paged],
        hear_choices: Callable[[tuple[Tensor, ...]], None] | None,
    ) -> None:
        super().__init__(program, weights)
        self._hear_choices = hear_choices
        self.ropes: list[RopeSpec] = []
        """The tables that a step must bring, in order."""
        self._cache_groups = list(cache_groups)
        self._n_kept = 0
        """Layers, indexers and pools that keep something for positions, so far: the program numbers these alone."""

    def select_blocks(self, spec: Gqa, cache: int, q: int, k: int, norms: tuple[Norm, Norm]) -> None:
        own = spec.selection
        assert isinstance(own, BlockSelection)
        q_norm, k_norm = norms
        self._hear(q, k)
        sizes = {"n_heads": spec.n_kv_heads, "block": own.block, "n_blocks": own.top_k, "n_local": own.n_local}
        selection.select_blocks(
            self._program, self._next_layer(), IndexKeys(own.head_dim), **sizes, q=q, k=k, q_norm=self._vector(q_norm),
            k_norm=self._vector(k_norm), eps=k_norm.eps, **self._turning(spec.rope), group=self._group(spec.cache),
        )  # fmt: skip

    def select_by_means(self, spec: Gqa, cache: int, q: int, past: int) -> None:
        own = spec.selection
        assert isinstance(own, MeanSelection)
        sizes = {"block": own.block, "n_blocks": own.top_k, "n_first": own.n_first, "n_local": own.n_local}
        where = {"onset": own.onset, "group": self._group(spec.cache)}
        selection.select_by_means(self._program, self._next_layer(), past, heads_of(spec), q=q, **where, **sizes)

    def select(self, spec: Mla, cache: int, q: int, k: int, weights: int, norm: LayerNorm) -> None:
        own = spec.indexer
        assert own is not None
        self._hear(q, k, weights)
        selection.select(
            self._program, self._next_layer(), IndexKeys(own.head_dim), n_heads=own.n_heads, most=own.top_k, q=q, k=k,
            weights=weights, **self._layer_norm(norm), scale=own.scale, **self._turning(spec.rope),
            group=self._group(spec.cache),
        )  # fmt: skip

    def select_pools(self, spec: Gqa, cache: int, q: int, k: int, norms: tuple[Norm, Norm]) -> None:
        own = spec.selection
        assert isinstance(own, PoolSelection)
        q_norm, norm = norms
        self._hear(q, k)
        turning: dict[str, Any] = {"eps": norm.eps, **self._turning(spec.rope)}
        keys = self._pool_keys(spec, k, {}, {"norm": self._vector(norm), **turning})
        self._choose_pools(own, keys, own.top_k, q=q, norm=self._vector(q_norm), **turning)

    def select_gated_pools(
        self, spec: Mla, cache: int, q: int, k: int, weights: int, gates: int, norm: LayerNorm, bias: PlaceBias
    ) -> None:
        own = spec.indexer
        assert own is not None
        self._hear(q, k, weights, gates)
        keys = self._pool_keys(spec, k, {"gates": gates, **self._layer_norm(norm)}, {"gate_bias": self._vector(bias)})
        self._choose_pools(own, keys, own.top_k // own.pool, q=q, weights=weights)

    def _pool_keys(self, spec: Gqa | Mla, k: int, kept: Mapping[str, Any], made: Mapping[str, Any]) -> int:
        """Where the keys of pools are kept: `kept` says what is beside k, `made` what is made of it."""
        inputs, keys = self._next_layer(), self._next_layer()
        of_inputs, of_keys = index_shapes(spec)
        group, of_pools = map(self._group, pool_caches(spec.pool))
        selection.keep_pool_inputs(self._program, inputs, of_inputs, k, group=group, **kept)
        selection.pool_keys(self._program, keys, of_keys, inputs=inputs, pool=spec.pool, group=of_pools, **made)
        return keys

    def _choose_pools(self, own: PoolSelection | Selection, keys: int, n_pools: int, **queries: Any) -> None:
        selection.select_pools(
            self._program, keys, IndexKeys(own.head_dim), n_heads=own.n_heads, pool=own.pool, n_pools=n_pools,
            scale=own.scale, **queries,
        )  # fmt: skip

    def _next_layer(self) -> int:
        layer, self._n_kept = self._n_kept, self._n_kept + 1
        return layer

    def _hear(self, *buffers: int) -> None:
        """For whoever listens, what a choice is made of."""
        if (hear := self._hear_choices) is not None:
            read = self._program.read
            self._program.call("hear", lambda step: hear(tuple(read(x, step.token_ids.numel()) for x in buffers)))

    def _turning(self, rope: RopeSpec | None) -> dict[str, Any]:
        """The table that a step must bring, and how many pairs of channels turn by it."""
        if rope is None:
            return {"rotary": None}
        if rope not in self.ropes:
            self.ropes.append(rope)
        return {"rotary": self.ropes.index(rope), "rotary_half": rope.rotary_dim // 2}

    def _group(self, kept: Paged) -> int:
        return self._cache_groups.index(kept)

    def _layer_norm(self, norm: LayerNorm) -> dict[str, Any]:
        bias = self._weights.vectors[f"{norm.name}.bias"]
        return {"norm": self._vector(norm), "norm_bias": bias, "eps": norm.eps}
