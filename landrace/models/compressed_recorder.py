"""`CompressedRecorder`: a recorder's operations on rows that are compressed from positions."""

from __future__ import annotations

from landrace.kernels.cpu import compressed as compressed_kernels
from landrace.kernels.cpu import latent
from landrace.kernels.cpu.cache import IndexKeys
from landrace.models.cache_shapes import compressed_shapes, keys_of
from landrace.models.compressed_spec import Compressed
from landrace.models.params import Norm, PlaceBias, Vector
from landrace.models.selection_recorder import SelectionRecorder


class CompressedRecorder(SelectionRecorder):
    """See `Ops`."""

    def keep_row(self, spec: Compressed, cache: int, q: int, row: int, norm: Norm) -> tuple[int, int]:
        layer, turning = self._next_layer(), self._turning(spec.rope)
        compressed_kernels.keep_row(
            self._program,
            layer,
            keys_of(spec),
            row,
            norm=self._vector(norm),
            eps=norm.eps,
            **turning,
            group=self._group(spec.cache),
        )
        self._program.turn_pairs(q, spec.n_heads, spec.head_dim, **turning, eps=norm.eps, scale=spec.scale)
        return q, layer

    def compress(self, spec: Compressed, cache: int, values: int, gates: int, bias: PlaceBias, norm: Norm) -> int:
        return self._compress(spec, 0, values, gates, bias, norm)

    def select_compressed(
        self, spec: Compressed, cache: int, q: int, weights: int, values: int, gates: int, bias: PlaceBias, norm: Norm
    ) -> None:
        assert spec.compression is not None and spec.compression.selection is not None
        own = spec.compression.selection
        self._hear(q, weights, values, gates)
        keys = self._compress(spec, 1, values, gates, bias, norm)
        self._program.turn_pairs(q, own.n_heads, own.head_dim, **self._turning(spec.rope))
        compressed_kernels.select_compressed(
            self._program,
            keys,
            IndexKeys(own.head_dim),
            n_heads=own.n_heads,
            most=own.top_k,
            q=q,
            weights=weights,
            ratio=spec.compression.ratio,
            scale=own.scale,
        )

    def attend_compressed(self, spec: Compressed, q: int, past: int, compressed: int | None, sinks: Vector) -> int:
        out, shape, own = self._buffer("mixed", spec.n_heads * spec.head_dim), keys_of(spec), self._vector(sinks)
        if spec.compression is None or compressed is None:
            latent.attend_latents(self._program, past, shape, q, out, mask=spec.mask, sinks=own)
        else:
            selection = spec.compression.selection
            most = None if selection is None else selection.top_k
            ratio = spec.compression.ratio
            compressed_kernels.attend_compressed(
                self._program, past, compressed, shape, q, out, mask=spec.mask, ratio=ratio, most=most, sinks=own
            )
        self._program.turn_pairs(out, spec.n_heads, spec.head_dim, **self._turning(spec.rope), back=True)
        return out

    def _compress(self, spec: Compressed, number: int, values: int, gates: int, bias: PlaceBias, norm: Norm) -> int:
        """The layer's own compressed rows, or its indexer's: where they are kept."""
        assert spec.compression is not None
        inputs, layer = self._next_layer(), self._next_layer()
        of_inputs, of_rows = compressed_shapes(spec)[number]
        group, of_compressed = map(self._group, (spec.cache, spec.compressed_cache))
        compressed_kernels.keep_inputs(self._program, inputs, of_inputs, values, gates, group=group)
        compressed_kernels.compress(
            self._program,
            layer,
            of_rows,
            inputs=inputs,
            width=of_inputs.width,
            ratio=spec.compression.ratio,
            bias=self._vector(bias),
            norm=self._vector(norm),
            eps=norm.eps,
            **self._turning(spec.rope),
            group=of_compressed,
        )
        return layer
