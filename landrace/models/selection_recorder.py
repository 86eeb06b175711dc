"""`SelectionRecorder`: a recorder's operations that choose positions, and its numbers of layers and tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from landrace.kernels.cpu.cache import IndexKeys
from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.selection import select, select_blocks, select_by_means, select_pools
from landrace.kernels.cpu.weights import PackedVector
from landrace.models.cache_shapes import heads_of
from landrace.models.cache_spec import Paged
from landrace.models.mixer_spec import Gqa, Mla, RopeSpec
from landrace.models.packed_weights import PackedWeights
from landrace.models.params import LayerNorm, Norm, PlaceBias
from landrace.models.selection_spec import BlockSelection, MeanSelection, PoolSelection
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
        select_blocks(
            self._program,
            self._next_layer(),
            IndexKeys(own.head_dim),
            n_heads=spec.n_kv_heads,
            block=own.block,
            n_blocks=own.top_k,
            n_local=own.n_local,
            q=q,
            k=k,
            q_norm=self._vector(q_norm),
            k_norm=self._vector(k_norm),
            eps=k_norm.eps,
            group=self._cache_groups.index(spec.cache),
            **self._turning(spec.rope),
        )

    def select_by_means(self, spec: Gqa, cache: int, q: int, past: int) -> None:
        own = spec.selection
        assert isinstance(own, MeanSelection)
        sizes = {"block": own.block, "n_blocks": own.top_k, "n_first": own.n_first, "n_local": own.n_local}
        where = {"onset": own.onset, "group": self._cache_groups.index(spec.cache)}
        select_by_means(self._program, self._next_layer(), past, heads_of(spec), q=q, **where, **sizes)

    def select_pools(self, spec: Gqa, cache: int, q: int, k: int, norms: tuple[Norm, Norm]) -> None:
        own = spec.selection
        assert isinstance(own, PoolSelection)
        q_norm, norm = norms
        self._hear(q, k)
        select_pools(
            self._program,
            self._next_layer(),
            IndexKeys(own.head_dim),
            n_heads=own.n_heads,
            pool=own.pool,
            n_pools=own.top_k,
            q=q,
            k=k,
            q_norm=self._vector(q_norm),
            norm=self._vector(norm),
            eps=norm.eps,
            scale=own.scale,
            group=self._cache_groups.index(spec.cache),
            **self._turning(spec.rope),
        )

    def select(self, spec: Mla, cache: int, q: int, k: int, weights: int, norm: LayerNorm) -> None:
        own = spec.indexer
        assert own is not None
        self._hear(q, k, weights)
        select(
            self._program,
            self._next_layer(),
            IndexKeys(own.head_dim),
            n_heads=own.n_heads,
            most=own.top_k,
            q=q,
            k=k,
            weights=weights,
            norm=self._vector(norm),
            norm_bias=self._norm_bias(norm),
            eps=norm.eps,
            scale=own.scale,
            group=self._cache_groups.index(spec.cache),
            **self._turning(spec.rope),
        )

    def select_gated_pools(
        self, spec: Mla, cache: int, q: int, k: int, weights: int, gates: int, norm: LayerNorm, bias: PlaceBias
    ) -> None:
        own = spec.indexer
        assert own is not None
        self._hear(q, k, weights, gates)
        select_pools(
            self._program,
            self._next_layer(),
            IndexKeys(own.head_dim, own.head_dim),
            n_heads=own.n_heads,
            pool=own.pool,
            n_pools=own.top_k // own.pool,
            q=q,
            k=k,
            weights=weights,
            gates=gates,
            gate_bias=self._vector(bias),
            norm=self._vector(norm),
            norm_bias=self._norm_bias(norm),
            eps=norm.eps,
            scale=own.scale,
            group=self._cache_groups.index(spec.cache),
        )

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

    def _norm_bias(self, norm: LayerNorm) -> PackedVector:
        return self._weights.vectors[f"{norm.name}.bias"]
