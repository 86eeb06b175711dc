"""Residual streams in a program: several rows of a model's width side by side in one buffer."""

from __future__ import annotations

from collections.abc import Sequence

from landrace.kernels.activation import Pointwise
from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.weights import PackedVector
from landrace.kernels.streams import HyperConnections


def widen(program: Program, x: int, out: int) -> None:
    """out = x, as many times side by side as there is room for."""
    program.add("widen", x=x, out=out)


def norm_each(program: Program, x: int, weight: PackedVector, eps: float, count: int, out: int) -> None:
    """out = each of `count` streams normalised by itself, times its part of the weight."""
    program.add("norm", x=x, weight=weight, eps=eps, out=out, factor=1.0, groups=count)


def stream_weights(
    program: Program,
    streams: int,
    weights: int,
    *,
    base: PackedVector,
    scale: PackedVector,
    form: HyperConnections,
    norm_eps: float,
) -> None:
    """weights = what the streams are weighted by, of their products with a matrix, which lie there: see
    `kernels.reference.streams`."""
    program.add(
        "stream_weights", streams=streams, weights=weights, base=base, scale=scale, count=form.count, eps=form.eps,
        norm_eps=norm_eps, post_factor=form.post_factor, post_eps=form.post_eps, iterations=form.iterations,
    )  # fmt: skip


def collapse(
    program: Program, streams: int, count: int, out: int, *, weights: int | None = None, gates: int | None = None
) -> None:
    """out = the sum of the streams, each times its weight; without weights their mean, with gates each of their values
    times the sigmoid of its own."""
    program.add("collapse", streams=streams, count=count, weights=weights, gates=gates, out=out)


def spread(program: Program, streams: int, branch: int, weights: int, count: int, first: int, mixes: bool) -> None:
    """streams = what of the streams goes to each, plus its weight times the branch's result. `first`: where its weights
    begin."""
    program.add(
        "spread", streams=streams, branch=branch, weights=weights, count=count, first=first, mixes=mixes,
    )  # fmt: skip


def attend_blocks(
    program: Program, sums: Sequence[int], scores: PackedVector, norm: PackedVector | None, eps: float, out: int
) -> None:
    """out = the sums of blocks, each times its share: see `kernels.reference.streams`."""
    program.add("attend_blocks", blocks=[{"x": one} for one in sums], scores=scores, norm=norm, eps=eps, out=out)


def activate(program: Program, x: int, kind: Pointwise, inner: float, outer: float) -> None:
    """x = outer * kind(inner * x)."""
    program.add("activate", x=x, kind=kind, inner=inner, outer=outer)
