"""`Recorder`: the operations of `Ops`, recorded as a program of the C++ kernels.

Rows are numbers of buffers. Buffers of one purpose and width are shared by all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from landrace.kernels.activation import Activation, Gate
from landrace.kernels.cpu import latent, mixture, recurrent
from landrace.kernels.cpu import streams as stream_kernels
from landrace.kernels.cpu.part import Epilogue, Part
from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.step import StepInput
from landrace.kernels.reference.heads import alibi_slopes, fading_rates
from landrace.kernels.router import Router
from landrace.models.cache_shapes import heads_of, latents_of
from landrace.models.cache_spec import Paged
from landrace.models.compressed_recorder import CompressedRecorder
from landrace.models.ffn_spec import Moe
from landrace.models.mixer_spec import Gdn, Gqa, Kda, Lightning, Mla
from landrace.models.packed_adapter import PackedAdapter
from landrace.models.packed_weights import PackedWeights
from landrace.models.params import (
    AbsorbedLinear,
    Experts,
    HeadLinear,
    Kernel,
    Linear,
    Norm,
    RouterWeights,
    Table,
    Vector,
)
from landrace.models.rope import further_ropes
from landrace.models.selection_spec import MeanSelection, PoolSelection


class Recorder(CompressedRecorder):
    """See `Ops`. Looks weights up by their names."""

    def __init__(
        self,
        program: Program,
        weights: PackedWeights,
        adapters: Mapping[int, PackedAdapter],
        cache_groups: Sequence[Paged],
        hear_choices: Callable[[tuple[Tensor, ...]], None] | None = None,
    ) -> None:
        self.slow: list[str] = []
        """Operations that PyTorch computes in the middle of the program."""
        self.given: int | None = None
        """Where a step's hidden rows are put."""
        self.kept_hidden: int | None = None
        super().__init__(program, weights, cache_groups, hear_choices)
        self._adapters = adapters

    def embed(self, table: Table, factor: float) -> int:
        matrix = self._weights.matrices[f"{table.name}.weight"]
        x = self._buffer("stream", matrix.n_in)
        self._program.embedding(matrix, factor, x)
        return x

    def add_embedding(self, into: int, table: Table, of: Literal["positions", "types"]) -> int:
        self._program.embedding(self._weights.matrices[f"{table.name}.weight"], 1.0, into, of=of, add=True)
        return into

    def hidden(self, width: int) -> int:
        self.given = self._buffer("given", width)
        return self.given

    def keep_hidden(self, x: int, norm: Norm | None) -> None:
        if norm is None:
            self.kept_hidden = x
            return
        self.kept_hidden = self._buffer("hidden rows", self._vector(norm).size)
        self._program.norm(x, self._vector(norm), norm.eps, self.kept_hidden)

    def join(self, parts: Sequence[tuple[int, Norm]]) -> int:
        normed = [self._buffer(f"part {n}", self.width(x)) for n, (x, _) in enumerate(parts)]
        for (x, norm), out in zip(parts, normed, strict=True):
            self._program.norm(x, self._vector(norm), norm.eps, out)
        joined = self._buffer("joined", sum(map(self.width, normed)))
        self._program.join(normed, joined)
        return joined

    def norm(self, x: int, norm: Norm) -> int:
        out = self._buffer(f"by {_leaf(norm)}", self._vector(norm).size)
        if norm.groups > 1:
            stream_kernels.norm_each(self._program, x, self._vector(norm), norm.eps, norm.groups, out)
        else:
            self._program.norm(x, self._vector(norm), norm.eps, out, bias=self._bias(norm))
        return out

    def scaled_norm(self, x: int, norm: Norm, factor: float) -> int:
        width = self._vector(norm).size
        out = next(one for one in (self._buffer("stream", width), self._buffer("next stream", width)) if one != x)
        self._program.norm(x, self._vector(norm), norm.eps, out, factor=factor)
        return out

    def linears(self, x: int, weights: Sequence[Linear], *, norm: Norm | None = None) -> list[int]:
        parts = [self._part(weight, _leaf(weight)) for weight in weights]
        self._program.product(", ".join(map(_leaf, weights)), x, parts, **self._normed(norm))
        for weight, part in zip(weights, parts, strict=True):
            self._adapt(x, weight, part.out, norm=norm)
        return [part.out for part in parts]

    def gated(self, x: int, gate: Linear, up: Linear, activation: Activation, *, norm: Norm | None = None) -> int:
        name = f"{_leaf(gate)}, {_leaf(up)}"
        hidden, other = self._part(gate, "hidden"), self._part(up, "hidden")
        adapted = any(weight.name in adapter.pairs for adapter in self._adapters.values() for weight in (gate, up))
        if adapted or hidden.matrix.order != other.matrix.order:
            gate_out, up_out = self.linears(x, [gate, up], norm=norm)
            self._program.gate(gate_out, up_out, hidden.out, activation)
        else:
            both = replace(
                hidden, epilogue=Epilogue.GATE, gated=other.matrix, gated_bias=other.bias, activation=activation
            )
            self._program.product(name, x, [both], **self._normed(norm))
        return hidden.out

    def add_linear(
        self,
        into: int | None,
        x: int,
        weight: Linear,
        factor: float = 1.0,
        *,
        gate: int | None = None,
        norm: Norm | None = None,
    ) -> int:
        part = self._part(weight, "branch") if into is None else self._part(weight, into)
        part = replace(part, epilogue=Epilogue.STORE if into is None else Epilogue.ADD, factor=factor, row_gate=gate)
        self._program.product(_leaf(weight), x, [part], **self._normed(norm))
        self._adapt(x, weight, part.out, norm=norm, factor=factor, gate=gate)
        return part.out

    def add_norm(self, into: int, x: int, norm: Norm, factor: float) -> int:
        self._program.norm(x, self._vector(norm), norm.eps, into, factor=factor, add=True)
        return into

    def keep(
        self, spec: Gqa, cache: int, q: int, k: int, v: int, norms: tuple[Norm, Norm] | None, eps: float
    ) -> tuple[int, int]:
        q_norm, k_norm = (None, None) if norms is None else map(self._vector, norms)
        if isinstance(spec.selection, MeanSelection):
            self._hear(q, k)
        layer = self._next_layer()
        self._program.rope(
            layer,
            heads_of(spec),
            q,
            k,
            v,
            **self._turning(spec.rope),
            scale=spec.score_factor,
            norm=spec.qk_norm,
            q_norm=q_norm,
            k_norm=k_norm,
            eps=eps,
            temperature=spec.temperature,
            group=self._group(spec.cache),
        )
        return q, layer

    def turn_on(self, spec: Gqa, q: int) -> tuple[int, int]:
        assert spec.rope is not None
        found = []
        for rope in further_ropes(spec.rope):
            out = self._buffer(f"queries for {rope.onwards} keys", spec.n_heads * spec.head_dim)
            self._program.turn(q, out, heads_of(spec), **self._turning(rope))
            found.append(out)
        return found[0], found[1]

    def attend(self, spec: Gqa, q: int, past: int, sinks: Vector | None, further: tuple[int, int] | None) -> int:
        out = self._buffer("mixed", spec.n_heads * spec.head_dim)
        self._program.attention(
            past,
            heads_of(spec),
            q,
            out,
            mask=spec.mask,
            sinks=None if sinks is None else self._vector(sinks),
            slopes=alibi_slopes(spec.n_heads) if spec.alibi else None,
            most=None if spec.selection is None else spec.selection.most,
            onset=None if spec.selection is None else spec.selection.onset,
            together=isinstance(spec.selection, PoolSelection),
            chunk=None if spec.chunks is None else spec.chunks.size,
            further=further,
        )
        return out

    def keep_latents(self, spec: Mla, cache: int, q: int, latents: int, norm: Norm) -> tuple[int, tuple[int, int]]:
        shape = latents_of(spec)
        queries = self._buffer("queries", spec.n_heads * shape.key_dim)
        layer = self._next_layer()
        latent.keep_latents(
            self._program,
            layer,
            shape,
            q,
            latents,
            queries,
            norm=self._vector(norm),
            eps=norm.eps,
            **self._turning(spec.rope),
            scale=spec.scale,
            group=self._group(spec.cache),
        )
        return q, (layer, queries)

    def attend_latents(
        self,
        spec: Mla,
        q: int,
        past: tuple[int, int],
        keys: AbsorbedLinear,
        values: HeadLinear,
        sinks: Vector | None,
    ) -> int:
        """Absorbed for every row, so that a row is computed alike in a prompt, in a chunk of it and alone."""
        layer, queries = past
        self._by_head(q, keys, queries, spec.scale)
        mixed = self._buffer("mixed", spec.n_heads * spec.kv_rank)
        most = None if spec.selection is None else spec.selection.most
        own = None if sinks is None else self._vector(sinks)
        latent.attend_latents(
            self._program, layer, latents_of(spec), queries, mixed, mask=spec.mask, most=most, sinks=own
        )
        out = self._buffer("mixed values", spec.n_heads * spec.v_dim)
        self._by_head(mixed, values, out, 1.0)
        return out

    def by_head(self, x: int, weight: HeadLinear) -> int:
        out = self._buffer(_leaf(weight), weight.n_heads * self._weights.stacks[f"{weight.name}.weight"][0].n_out)
        self._by_head(x, weight, out, 1.0)
        return out

    def by_stream(self, x: int, weight: Linear, count: int) -> int:
        matrix = self._weights.matrices[f"{weight.name}.weight"]
        out = self._buffer(_leaf(weight), count * matrix.n_out)
        latent.head_product(self._program, _leaf(weight), x, [matrix] * count, out)
        return out

    def gate_heads(self, spec: Gqa | Mla, x: int, gate: int) -> int:
        self._program.gate_heads(x, gate, x)
        return x

    def conv(
        self, cache: int, xs: Sequence[int], kernels: Sequence[Kernel], *, first: int, dilation: int = 1
    ) -> list[int]:
        width = kernels[0].weight.shape[-1]
        recurrent.short_conv(self._program, xs, [self._vector(kernel) for kernel in kernels], width, dilation)
        return list(xs)

    def delta(
        self, spec: Gdn | Kda, cache: int, q: int, k: int, v: int, a: int, b: int, a_log: Vector, dt_bias: Vector
    ) -> int:
        out = self._buffer("mixed", spec.n_value_heads * spec.value_dim)
        recurrent.delta(
            self._program,
            n_heads=spec.n_heads,
            n_value_heads=spec.n_value_heads,
            key_dim=spec.key_dim,
            value_dim=spec.value_dim,
            rounds=spec.rounds,
            floor=spec.decay_floor,
            q=q,
            k=k,
            v=v,
            a=a,
            b=b,
            a_log=self._vector(a_log),
            dt_bias=self._vector(dt_bias),
            out=out,
        )
        return out

    def lightning(self, spec: Lightning, cache: int, q: int, k: int, v: int) -> int:
        out = self._buffer("mixed", spec.n_heads * spec.head_dim)
        rates = fading_rates(spec.n_heads, spec.fading)
        recurrent.lightning(self._program, spec.head_dim, rates, q=q, k=k, v=v, out=out)
        return out

    def gated_norm(self, x: int, gate: int, norm: Norm, by: Gate = "silu") -> int:
        recurrent.gated_norm(self._program, x, gate, self._vector(norm), norm.eps, by)
        return x

    def route(self, x: int, weights: RouterWeights, router: Router) -> mixture.Routing:
        logits = self._part(weights, "router")
        self._program.product("router", x, [logits])
        self._hear(logits.out)
        vectors = (self._weights.vectors.get(f"{weights.name}.{leaf}") for leaf in ("choice_bias", "table"))
        choice_bias, table = vectors
        return mixture.route(self._program, logits.out, router, choice_bias=choice_bias, table=table)

    def experts(
        self,
        into: int | None,
        x: int,
        routing: mixture.Routing,
        gate: Experts,
        up: Experts,
        down: Experts,
        spec: Moe,
        factor: float,
    ) -> int:
        projections = [self._projection(weight) for weight in (gate, up, down)]
        out = self._buffer("branch", projections[2].matrices[0].n_out) if into is None else into
        mixture.experts(
            self._program,
            "experts",
            x,
            routing,
            *projections,
            activation=spec.activation,
            weight_on_input=spec.weight_on_input,
            out=out,
            add=into is not None,
            factor=factor,
        )
        return out

    def head(self, x: int, weight: Linear | Table, norm: Norm | None, divisor: float) -> int:
        program, matrix = self._program, self._weights.matrices[f"{weight.name}.weight"]
        part = Part(matrix, program.logits, self._bias(weight), factor=1.0 / divisor)
        program.product("head", x, [part], **self._normed(norm), rows=program.logit_rows, gather=True)
        return program.logits

    def call(self, name: str, inputs: Sequence[int], width: int, function: Callable[..., Tensor]) -> int:
        """Records what the kernels have no operation for: rows [T, width] = function(rows of each input), by PyTorch.

        A row's result must not depend on other rows. `slow` names the operation, so that users are told.
        """
        out, program = self._buffer(name, width), self._program

        def compute(step: StepInput) -> None:
            n_rows = step.token_ids.numel()
            program.view(out, n_rows).copy_(function(*(program.view(x, n_rows) for x in inputs)))

        program.call(name, compute)
        if name not in self.slow:
            self.slow.append(name)
        return out

    def _adapt(
        self,
        x: int,
        weight: Linear,
        out: int,
        *,
        norm: Norm | None = None,
        factor: float = 1.0,
        gate: int | None = None,
    ) -> None:
        """out = out + factor * sigmoid(gate) * scale * B A x, for the rows of each adapter."""
        for place, adapter in self._adapters.items():
            pair = adapter.pairs.get(weight.name)
            if pair is None:
                continue
            a, b = pair
            low = self._buffer("low", a.n_out)
            self._program.product("adapter", x, [Part(a, low)], **self._normed(norm), rows=place, gather=True)
            part = Part(b, out, epilogue=Epilogue.ADD, factor=factor * adapter.scale, row_gate=gate)
            self._program.product("adapter", low, [part], rows=place, scatter=True)

    def _by_head(self, x: int, weight: HeadLinear, out: int, factor: float) -> None:
        """out[h] = factor * x[h] times the head's matrix, adapters of the step's rows included."""
        latent.head_product(
            self._program, _leaf(weight), x, self._weights.stacks[f"{weight.name}.weight"], out, factor=factor
        )
        for place, adapter in self._adapters.items():
            pair = adapter.head_pairs.get(weight.name)
            if pair is None:
                continue
            down, up = pair
            low = self._buffer("low", weight.n_heads * down[0].n_out)
            latent.head_product(self._program, "adapter", x, down, low, rows=place, gather=True)
            scale = factor * adapter.scale
            latent.head_product(
                self._program, "adapter", low, up, out, add=True, factor=scale, rows=place, scatter=True
            )

    def _projection(self, weight: Experts) -> mixture.ExpertProjection:
        adapters = [
            mixture.ExpertAdapter(place, *adapter.expert_pairs[weight.name], adapter.scale)
            for place, adapter in self._adapters.items()
            if weight.name in adapter.expert_pairs
        ]
        matrices = self._weights.stacks[f"{weight.name}.weight"]
        return mixture.ExpertProjection(matrices, self._weights.expert_vectors.get(f"{weight.name}.bias"), adapters)

    def _normed(self, norm: Norm | None) -> dict[str, Any]:
        return {} if norm is None else {"norm": self._vector(norm), "eps": norm.eps}


def _leaf(weight: Linear | Norm) -> str:
    return weight.name.rpartition(".")[2]
