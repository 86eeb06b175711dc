"""Mixtures of experts in a program: which experts each row goes to, and their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from landrace.kernels.activation import SWIGLU, Activation
from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.weights import PackedMatrix, PackedVector
from landrace.kernels.router import Router


@dataclass(frozen=True)
class Routing:
    """Where rows go: what the last `route` of these logits found."""

    logits: int
    """The logits' buffer."""
    top_k: int


@dataclass(frozen=True)
class ExpertAdapter:
    """A low-rank change of one projection of every expert: y = y + factor * B A x for the rows of an adapter's slot."""

    slot: int
    a: Sequence[PackedMatrix]
    """[rank, in] of each expert."""
    b: Sequence[PackedMatrix]
    """[out, rank] of each expert."""
    factor: float


@dataclass(frozen=True)
class ExpertProjection:
    """One projection of every expert."""

    matrices: Sequence[PackedMatrix]
    biases: Sequence[PackedVector] | None = None
    adapters: Sequence[ExpertAdapter] = ()


def route(
    program: Program,
    logits: int,
    router: Router,
    *,
    choice_bias: PackedVector | None = None,
    table: PackedVector | None = None,
) -> Routing:
    """Records the choice of each row's experts by the logits in a buffer of n_experts values (see `Router`).

    choice_bias [n_experts] where the router has one; table [vocabulary * top_k], the experts' numbers of each token,
    where they are chosen by token. ValueError for what does not fit.
    """
    if (choice_bias is not None) != router.choice_bias or (table is not None) != router.by_token:
        raise ValueError("A router has the choice's bias and the table that its record says, and no others.")
    program.add(
        "route", logits=logits, top_k=router.top_k, score=router.score, renorm=router.renorm,
        renorm_floor=router.renorm_floor, renorm_added=router.renorm_added, scale=router.scale,
        n_groups=router.n_groups, top_groups=router.top_groups, group_score=router.group_score,
        choice_bias=choice_bias, table=table,
    )  # fmt: skip
    return Routing(logits, router.top_k)


def experts(
    program: Program,
    name: str,
    x: int,
    routing: Routing,
    gate: ExpertProjection,
    up: ExpertProjection,
    down: ExpertProjection,
    *,
    activation: Activation = SWIGLU,
    weight_on_input: bool = False,
    out: int,
    add: bool,
    factor: float = 1.0,
) -> None:
    """Records factor * the sum over a row's experts e of weight * down_e(activation(gate_e(x), up_e(x))), as `out` or
    added to it.

    A row's sum runs in the order of the experts' numbers. With `weight_on_input` the weight multiplies x instead of the
    result.
    """
    columns = {"gate": gate, "up": up, "down": down}
    n_experts = len(gate.matrices)
    if any(len(projection.matrices) != n_experts for projection in columns.values()):
        raise ValueError("Each expert has a gate, an up and a down.")
    if any(len(projection.biases or gate.matrices) != n_experts for projection in columns.values()):
        raise ValueError("A projection has a bias for each expert or for none.")
    records = [
        {role: projection.matrices[expert] for role, projection in columns.items()}
        | {f"{role}_bias": projection.biases[expert] for role, projection in columns.items() if projection.biases}
        for expert in range(n_experts)
    ]
    adapters = [
        {
            "projection": role,
            "slot": adapter.slot,
            "factor": adapter.factor,
            "experts": [{"a": a, "b": b} for a, b in zip(adapter.a, adapter.b, strict=True)],
        }
        for role, projection in columns.items()
        for adapter in projection.adapters
    ]
    program.add(
        "experts", name=name, x=x, **vars(routing), experts=records, activation=[vars(activation)],
        weight_on_input=weight_on_input, out=out, add=add, factor=factor, adapters=adapters,
    )  # fmt: skip
