"""`PooledRecorder`: a recorder's operations on rows that are pooled from positions, and what it knows of caches and
tables of angles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from landrace.kernels.cpu import latent
from landrace.kernels.cpu import pooled as pooled_kernels
from landrace.kernels.cpu.cache import IndexKeys
from landrace.kernels.cpu.program import Program
from landrace.models.cache_shapes import keys_of, pool_shapes
from landrace.models.cache_spec import Paged
from landrace.models.mixer_spec import RopeSpec
from landrace.models.packed_weights import PackedWeights
from landrace.models.params import Norm, Vector
from landrace.models.pooled_spec import Pooled
from landrace.models.stream_recorder import StreamRecorder


class PooledRecorder(StreamRecorder):
    """See `Ops`."""

    def __init__(self, program: Program, weights: PackedWeights, cache_groups: Sequence[Paged]) -> None:
        super().__init__(program, weights)
        self.ropes: list[RopeSpec] = []
        """The tables that a step must bring, in order."""
        self._n_kept = 0
        """Layers, indexers and pools that keep something for positions, so far: the program numbers these alone."""
        self._cache_groups = list(cache_groups)

    def keep_row(self, spec: Pooled, cache: int, q: int, row: int, norm: Norm) -> tuple[int, int]:
        layer, turning = self._next_layer(), self._turning(spec.rope)
        pooled_kernels.keep_row(
            self._program,
            layer,
            keys_of(spec),
            row,
            norm=self._vector(norm),
            eps=norm.eps,
            **turning,
            group=self._cache_groups.index(spec.cache),
        )
        self._program.turn_pairs(q, spec.n_heads, spec.head_dim, **turning, eps=norm.eps, scale=spec.scale)
        return q, layer

    def pool(self, spec: Pooled, cache: int, number: int, values: int, gates: int, bias: Vector, norm: Norm) -> int:
        assert spec.pooling is not None
        inputs, layer = self._next_layer(), self._next_layer()
        of_inputs, of_rows = pool_shapes(spec)[number]
        group, of_pooled = map(self._cache_groups.index, (spec.cache, spec.pooled_cache))
        pooled_kernels.keep_inputs(self._program, inputs, of_inputs, values, gates, group=group)
        pooled_kernels.pool(
            self._program,
            layer,
            of_rows,
            inputs=inputs,
            width=of_inputs.width,
            ratio=spec.pooling.ratio,
            bias=self._vector(bias),
            norm=self._vector(norm),
            eps=norm.eps,
            **self._turning(spec.rope),
            group=of_pooled,
        )
        return layer

    def select_pooled(self, spec: Pooled, q: int, weights: int, pooled: int) -> None:
        assert spec.pooling is not None and spec.pooling.selection is not None
        own = spec.pooling.selection
        self._program.turn_pairs(q, own.n_heads, own.head_dim, **self._turning(spec.rope))
        pooled_kernels.select_pooled(
            self._program,
            pooled,
            IndexKeys(own.head_dim),
            n_heads=own.n_heads,
            most=own.top_k,
            q=q,
            weights=weights,
            ratio=spec.pooling.ratio,
            scale=own.scale,
        )

    def attend_pooled(self, spec: Pooled, q: int, past: int, pooled: int | None, sinks: Vector) -> int:
        out, shape, own = self._buffer("mixed", spec.n_heads * spec.head_dim), keys_of(spec), self._vector(sinks)
        if spec.pooling is None or pooled is None:
            latent.attend_latents(self._program, past, shape, q, out, mask=spec.mask, sinks=own)
        else:
            selection = spec.pooling.selection
            most = None if selection is None else selection.top_k
            ratio = spec.pooling.ratio
            pooled_kernels.attend_pooled(
                self._program, past, pooled, shape, q, out, mask=spec.mask, ratio=ratio, most=most, sinks=own
            )
        self._program.turn_pairs(out, spec.n_heads, spec.head_dim, **self._turning(spec.rope), back=True)
        return out

    def _next_layer(self) -> int:
        layer, self._n_kept = self._n_kept, self._n_kept + 1
        return layer

    def _turning(self, rope: RopeSpec | None) -> dict[str, Any]:
        """The table that a step must bring, and how many pairs of channels turn by it."""
        if rope is None:
            return {"rotary": None}
        if rope not in self.ropes:
            self.ropes.append(rope)
        return {"rotary": self.ropes.index(rope), "rotary_half": rope.rotary_dim // 2}
