"""`PooledRecorder`: a recorder's operations on rows that are pooled from positions."""

from __future__ import annotations

from landrace.kernels.cpu import latent
from landrace.kernels.cpu import pooled as pooled_kernels
from landrace.kernels.cpu.cache import IndexKeys
from landrace.models.cache_shapes import keys_of, pool_shapes
from landrace.models.params import Norm, PlaceBias, Vector
from landrace.models.pooled_spec import Pooled
from landrace.models.selection_recorder import SelectionRecorder


class PooledRecorder(SelectionRecorder):
    """See `Ops`."""

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

    def pool(self, spec: Pooled, cache: int, values: int, gates: int, bias: PlaceBias, norm: Norm) -> int:
        return self._pool(spec, 0, values, gates, bias, norm)

    def select_pooled(
        self, spec: Pooled, cache: int, q: int, weights: int, values: int, gates: int, bias: PlaceBias, norm: Norm
    ) -> None:
        assert spec.pooling is not None and spec.pooling.selection is not None
        own = spec.pooling.selection
        self._hear(q, weights, values, gates)
        keys = self._pool(spec, 1, values, gates, bias, norm)
        self._program.turn_pairs(q, own.n_heads, own.head_dim, **self._turning(spec.rope))
        pooled_kernels.select_pooled(
            self._program,
            keys,
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

    def _pool(self, spec: Pooled, number: int, values: int, gates: int, bias: PlaceBias, norm: Norm) -> int:
        """The layer's own pooled rows, or its indexer's: where they are kept."""
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
