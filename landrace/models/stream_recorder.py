"""`StreamRecorder`: a recorder's operations on residual streams and n-grams, and the buffers and weights it knows."""

from __future__ import annotations

from landrace.kernels.activation import Pointwise
from landrace.kernels.cpu import ngrams as ngram_kernels
from landrace.kernels.cpu import streams as stream_kernels
from landrace.kernels.cpu.part import Part
from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.weights import PackedVector
from landrace.kernels.ngrams import NGrams
from landrace.kernels.streams import HyperConnections
from landrace.models.packed_weights import PackedWeights
from landrace.models.params import Kernel, Linear, Norm, PlaceBias, RouterWeights, StreamWeights, Table, Vector


class StreamRecorder:
    """See `Ops`."""

    def __init__(self, program: Program, weights: PackedWeights) -> None:
        self._program = program
        self._weights = weights
        self._buffers: dict[tuple[str, int], int] = {}
        self._sums: list[int] = []

    def ngrams(self, form: NGrams, cache: int, table: Table) -> int:
        matrix = self._weights.matrices[f"{table.name}.weight"]
        out = self._buffer("n-grams", len(form.sizes) * matrix.n_in)
        ngram_kernels.ngrams(self._program, matrix, form, out)
        return out

    def gated_values(self, keys: int, queries: int, values: int, count: int) -> int:
        out = self._buffer("gated values", self.width(keys))
        ngram_kernels.gated_values(self._program, keys, queries, values, count, out)
        return out

    def add(self, into: int, x: int) -> int:
        self._program.add("add", x=x, out=into)
        return into

    def widen(self, x: int, count: int) -> int:
        out = self._buffer("streams", count * self.width(x))
        stream_kernels.widen(self._program, x, out)
        return out

    def stream_weights(self, streams: int, weights: StreamWeights, form: HyperConnections) -> int:
        part = self._part(weights, "stream weights")
        base, scale = (self._weights.vectors[f"{weights.name}.{leaf}"] for leaf in ("base", "scale"))
        self._program.product("streams", streams, [part])
        stream_kernels.stream_weights(
            self._program, streams, part.out, base=base, scale=scale, form=form, norm_eps=weights.eps
        )
        return part.out

    def collapse(self, streams: int, count: int, weights: int | None) -> int:
        out = self._buffer("collapsed", self.width(streams) // count)
        stream_kernels.collapse(self._program, streams, count, out, weights=weights)
        return out

    def collapse_gated(self, streams: int, gates: int, count: int) -> int:
        out = self._buffer("collapsed", self.width(streams) // count)
        stream_kernels.collapse(self._program, streams, count, out, gates=gates)
        return out

    def spread(self, streams: int, branch: int, weights: int, count: int, *, first: int, mixes: bool) -> int:
        stream_kernels.spread(self._program, streams, branch, weights, count, first, mixes)
        return streams

    def start_block(self, x: int, branch: int) -> int:
        self._sums.append(x)
        out = self._buffer(f"sum {len(self._sums)}", self.width(branch))
        self._program.join([branch], out)
        return out

    def attend_blocks(self, x: int, scores: Vector, norm: Norm | None, eps: float) -> int:
        out = self._buffer("attended blocks", self.width(x))
        weight = None if norm is None else self._vector(norm)
        stream_kernels.attend_blocks(self._program, [*self._sums, x], self._vector(scores), weight, eps, out)
        return out

    def activate(self, x: int, kind: Pointwise, *, inner: float, outer: float = 1.0) -> int:
        stream_kernels.activate(self._program, x, kind, inner, outer)
        return x

    def width(self, x: int) -> int:
        """Values in a row of a buffer."""
        return self._program.view(x, 0).shape[1]

    def _part(self, weight: Linear | RouterWeights | StreamWeights, out: str | int) -> Part:
        """`out`: a buffer, or the purpose of one."""
        matrix = self._weights.matrices[f"{weight.name}.weight"]
        return Part(matrix, self._buffer(out, matrix.n_out) if isinstance(out, str) else out, self._bias(weight))

    def _bias(self, weight: Linear | RouterWeights | StreamWeights | Table | Norm) -> PackedVector | None:
        return self._weights.vectors.get(f"{weight.name}.bias")

    def _vector(self, weight: Norm | Vector | Kernel | PlaceBias) -> PackedVector:
        return self._weights.vectors[f"{weight.name}.weight"]

    def _buffer(self, purpose: str, width: int) -> int:
        if (purpose, width) not in self._buffers:
            self._buffers[purpose, width] = self._program.buffer(width)
        return self._buffers[purpose, width]
