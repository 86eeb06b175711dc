"""Mixtures of experts of the C++ kernels against float64 and against single products, in every instruction set."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from cpu_steps import (
    POISONED_ROWS,
    Kernels,
    as_kernel_sees,
    assert_near,
    assert_same,
    plain_step,
    poison,
    stored_matrix,
)
from torch import Tensor

from landrace.kernels.activation import SWIGLU, Activation
from landrace.kernels.cpu.mixture import ExpertAdapter, ExpertProjection, experts, route
from landrace.kernels.cpu.part import Epilogue, Part
from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.weights import KINDS, PackedMatrix, PackedVector
from landrace.kernels.reference.blocks import dequantize
from landrace.kernels.reference.dense import gated
from landrace.kernels.reference.routing import Routing
from landrace.kernels.reference.routing import route as reference_route
from landrace.kernels.router import Router

E, K = 9, 3
MOST_ROWS = 104
"""More than any step here has."""
ROUTER = Router(K, renorm=True)
OAI = Activation("oai", limit=3.0, alpha=1.7)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Mixture:
    """Experts' weights as they are stored, by projection and expert."""

    kinds: tuple[str, str, str]
    width: int
    hidden: int
    biased: bool = False
    activation: Activation = SWIGLU
    weight_on_input: bool = False
    factor: float = 0.7
    router: Router = ROUTER

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        return ((self.hidden, self.width), (self.hidden, self.width), (self.width, self.hidden))

    def stored(self) -> list[list[Tensor]]:
        return [
            [stored_matrix(kind, *shape, seed=100 * i + e) for e in range(E)]
            for i, (kind, shape) in enumerate(zip(self.kinds, self.shapes, strict=True))
        ]

    def biases(self) -> list[list[Tensor]] | None:
        if not self.biased:
            return None
        return [[normal(shape[0], seed=1000 + 100 * i + e) for e in range(E)] for i, shape in enumerate(self.shapes)]


class Native:
    """One mixture as a program: x, the router's logits and what there was before are written, the sum is read."""

    def __init__(
        self, kernels: Kernels, isa: str, mixture: Mixture, projections: Sequence[ExpertProjection] | None = None
    ) -> None:
        self.mixture = mixture
        self.projections = projections or packed(kernels, mixture)
        program = self.program = kernels.program(isa)
        self.x, self.logits, self.into = program.buffer(mixture.width), program.buffer(E), program.buffer(mixture.width)
        routing = route(program, self.logits, mixture.router)
        experts(
            program, "experts", self.x, routing, *self.projections, activation=mixture.activation,
            weight_on_input=mixture.weight_on_input, out=self.into, add=True, factor=mixture.factor,
        )  # fmt: skip
        # What is left over from steps before is NaN.
        poison(program, {self.x: mixture.width, self.logits: E, self.into: mixture.width})
        program.run(plain_step(MOST_ROWS), 2)

    def __call__(
        self, x: Tensor, logits: Tensor, before: Tensor, threads: int = 1, users: Sequence[Sequence[int]] = ()
    ) -> Tensor:
        """What lies past the rows is NaN and stays so."""
        n, program, width = len(x), self.program, self.mixture.width
        poison(program, {self.x: width, self.logits: E, self.into: width})
        program.write(self.x, x)
        program.write(self.logits, logits)
        program.write(self.into, before)
        program.run(plain_step(n, adapter_rows=users), threads)
        out = program.read(self.into, POISONED_ROWS)
        assert out[n:].isnan().all()
        return out[:n]


def packed(kernels: Kernels, mixture: Mixture) -> list[ExpertProjection]:
    biases = mixture.biases()
    return [
        ExpertProjection(
            [kernels.matrix(stored, kind, shape[1]) for stored in matrices],
            None if biases is None else [kernels.vector(bias) for bias in biases[i]],
        )
        for i, (matrices, kind, shape) in enumerate(zip(mixture.stored(), mixture.kinds, mixture.shapes, strict=True))
    ]


def routing_of(mixture: Mixture, logits: Tensor) -> Routing:
    return reference_route(logits, mixture.router)


def expected(
    mixture: Mixture, x: Tensor, logits: Tensor, before: Tensor, users: Sequence[Sequence[int]] = ()
) -> tuple[Tensor, Tensor]:
    """The sum in float64 on the numbers the kernels see, and what bounds its rounding."""
    routing, stored, biases = routing_of(mixture, logits), mixture.stored(), mixture.biases()
    weights = [
        [dequantize(matrix, kind, shape[1]).double() for matrix in matrices]
        for matrices, kind, shape in zip(stored, mixture.kinds, mixture.shapes, strict=True)
    ]
    low_ranks = {(slot, i): low_rank(mixture, i, slot) for slot, i, _ in SLOTS}

    def project(row: int, i: int, expert: int, rows: Tensor, input_factor: float) -> tuple[Tensor, Tensor]:
        seen, weight = as_kernel_sees(rows, mixture.kinds[i]), weights[i][expert].t()
        y, bound = input_factor * (seen @ weight), abs(input_factor) * (seen.abs() @ weight.abs())
        if biases is not None:
            y, bound = y + biases[i][expert], bound + biases[i][expert].abs()
        for slot, projection, factor in SLOTS if users else ():
            if projection == i and row in users[slot]:
                a, b = (pair[expert].double().t() for pair in low_ranks[slot, i])
                y = y + factor * input_factor * (rows.double() @ a @ b)
                bound = bound + abs(factor * input_factor) * (rows.double().abs() @ a.abs() @ b.abs())
        return y, bound

    total, size = before.double(), before.double().abs()
    for row in range(len(x)):
        for expert, weight in zip(routing.experts[row].tolist(), routing.weights[row].tolist(), strict=True):
            on_input, worth = (weight, 1.0) if mixture.weight_on_input else (1.0, weight)
            gate, up = (project(row, i, expert, x[row : row + 1], on_input)[0] for i in (0, 1))
            y, bound = project(row, 2, expert, gated(gate, up, mixture.activation).float(), 1.0)
            total[row] += mixture.factor * worth * y[0]
            size[row] += abs(mixture.factor * worth) * bound[0]
    return total, size


def inputs(mixture: Mixture, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x, the router's logits, and what there was before."""
    return normal(n, mixture.width, seed=seed), 2 * normal(n, E, seed=seed + 1), normal(n, mixture.width, seed=seed + 2)


def mixture_of(kind: str) -> Mixture:
    if kind.endswith(("K", "XS")):
        return Mixture((kind, kind, kind), 256, 256)
    if kind in ("F32", "F16", "BF16"):
        return Mixture((kind, kind, kind), 35, 21)
    return Mixture((kind, kind, kind), 96, 64)


MIXTURES = {kind: mixture_of(kind) for kind in KINDS} | {
    "mixed kinds": Mixture(("Q4_0", "BF16", "Q8_0"), 64, 32),
    "biases": Mixture(("Q4_0", "Q4_0", "F32"), 64, 32, biased=True),
    "on input": Mixture(("Q8_0", "BF16", "F16"), 64, 32, biased=True, weight_on_input=True),
    "oai": Mixture(("F32", "F32", "F32"), 24, 40, biased=True, activation=OAI),
    "clamp before": Mixture(("F32", "F32", "F32"), 24, 40, activation=Activation("clamp_before", limit=2.0)),
    "clamp after": Mixture(("F32", "F32", "F32"), 24, 40, activation=Activation("clamp_after", limit=2.0)),
    "situ": Mixture(("F32", "F32", "F32"), 24, 40, activation=Activation("situ", limit=2.0, alpha=1.5)),
    "one expert": replace(mixture_of("Q4_0"), router=Router(1, "sigmoid_of_chosen")),
    "all experts": replace(mixture_of("Q4_0"), router=Router(E)),
}


@pytest.mark.matrix
@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
def test_mixtures(kernels: Kernels, isa: str, mixture: Mixture) -> None:
    native = Native(kernels, isa, mixture)
    x, logits, before = inputs(mixture, 60)
    total, size = expected(mixture, x, logits, before)
    for n in (0, 1, 2, 5, 60):
        # Hidden values that are rounded otherwise may move by a whole 8-bit step, where they lie between two.
        assert_near(native(x[:n], logits[:n], before[:n], 1 + n % 3), total[:n], size[:n], 1e-3)


@pytest.mark.parametrize("name", ["F32", "BF16", "Q4_0", "Q4_K", "Q6_K", "mixed kinds", "on input", "oai"])
def test_a_row_is_the_same_in_every_batch(kernels: Kernels, name: str) -> None:
    """Alone, at any place among others, with any number of threads, in any instruction set: to the bit."""
    mixture = MIXTURES[name]
    x, logits, before = inputs(mixture, 70)
    projections = packed(kernels, mixture)

    def compute(isa: str, threads: int) -> Tensor:
        native = Native(kernels, isa, mixture, projections)
        together = native(x, logits, before, threads)
        draw = random.Random(threads)
        for n in (1, 1, 1, 2, 3, 5, 9, 50):
            chosen = torch.tensor(draw.sample(range(len(x)), n))
            assert torch.equal(native(x[chosen], logits[chosen], before[chosen], threads), together[chosen]), (isa, n)
        return together

    kernels.same_everywhere(compute)


def one_by_one(
    kernels: Kernels, isa: str, mixture: Mixture, projections: Sequence[ExpertProjection], x: Tensor, routing: Routing,
    before: Tensor,
) -> Tensor:  # fmt: skip
    """Every row's experts as products of their own, in order."""

    def at(projection: ExpertProjection, expert: int) -> tuple[PackedMatrix, PackedVector | None]:
        return projection.matrices[expert], projection.biases[expert] if projection.biases else None

    rows = []
    for row in range(len(x)):
        program: Program = kernels.program(isa)
        own, into = program.buffer(mixture.width), program.buffer(mixture.width)
        for expert, weight in zip(routing.experts[row].tolist(), routing.weights[row], strict=True):
            hidden = program.buffer(mixture.hidden)
            (gate, gate_bias), (up, up_bias), (down, down_bias) = (at(p, expert) for p in projections)
            halves = Part(
                gate, hidden, gate_bias, Epilogue.GATE, gated=up, gated_bias=up_bias, activation=mixture.activation
            )
            program.product("hidden", own, [halves])
            factor = float(torch.tensor(mixture.factor) * weight)
            program.product("out", hidden, [Part(down, into, down_bias, Epilogue.ADD, factor)])
        program.write(own, x[row : row + 1])
        program.write(into, before[row : row + 1])
        program.run(plain_step(1), 1)
        rows.append(program.read(into, 1))
    return torch.cat(rows)


@pytest.mark.parametrize("name", ["F32", "BF16", "Q4_0", "Q6_K", "mixed kinds", "biases", "oai"])
def test_experts_equal_single_products(kernels: Kernels, name: str) -> None:
    """To the bit. Every choice is worth the same, so that the bits of the router's softmax do not matter."""
    mixture = replace(MIXTURES[name], router=Router(K, "softmax_of_chosen"))
    x, logits, before = inputs(mixture, 30)
    routing = routing_of(mixture, logits)
    equal = torch.full_like(logits, -50.0).scatter(1, routing.experts, 1.0)
    routing = Routing(routing.experts, torch.full_like(routing.weights, 1 / 3))
    isa = kernels.extension.instruction_sets()[-1]
    native = Native(kernels, isa, mixture)
    assert_same(native(x, equal, before, 2), one_by_one(kernels, isa, mixture, native.projections, x, routing, before))


@pytest.mark.parametrize("name", ["Q4_0", "BF16", "biases"])
def test_uneven_experts(kernels: Kernels, name: str) -> None:
    """One expert gets all rows, more than a task takes; two get all; each gets one."""
    mixture = replace(MIXTURES[name], router=Router(2, "softmax_of_chosen"))
    x, _, before = inputs(mixture, 100)
    uneven = torch.zeros(100, E)
    uneven[:, 4] = 9.0
    uneven[:, 7] = torch.where(torch.arange(100) % 50 == 0, 5.0, -5.0)
    spread = torch.nn.functional.one_hot(torch.arange(100) % E, E) * 5.0
    choices, projections = (uneven, -uneven, spread), packed(kernels, mixture)

    def compute(isa: str, threads: int) -> Tensor:
        native = Native(kernels, isa, mixture, projections)
        return torch.cat([native(x, logits, before, threads) for logits in choices])

    sums = [expected(mixture, x, logits, before) for logits in choices]
    assert_near(kernels.same_everywhere(compute), *(torch.cat(parts) for parts in zip(*sums, strict=True)), 1e-3)


@pytest.mark.parametrize("name", ["Q4_0", "F32", "BF16", "oai", "on input"])
def test_what_is_no_number_stays_in_its_row(kernels: Kernels, name: str) -> None:
    mixture = MIXTURES[name]
    x, logits, before = inputs(mixture, 40)
    bad_x, bad_logits = x.clone(), logits.clone()
    bad_x[3, 1], bad_x[17, 0] = math.nan, -math.inf
    bad_logits[20] = math.nan
    bad_logits[21, 2] = math.inf
    good = [row for row in range(40) if row not in (3, 17, 20, 21)]
    projections = packed(kernels, mixture)

    def compute(isa: str, threads: int) -> Tensor:
        native = Native(kernels, isa, mixture, projections)
        result, clean = native(bad_x, bad_logits, before, threads), native(x, logits, before, threads)
        assert torch.equal(result[good], clean[good])
        assert result[[3, 20]].isnan().all()
        return result

    kernels.same_everywhere(compute)


def test_rows_of_several_mixtures(kernels: Kernels, isa: str) -> None:
    """Two mixtures of different sizes over one router's logits and over another's, one after the other."""
    first, second = MIXTURES["Q4_0"], replace(MIXTURES["F32"], width=96, router=Router(2, "sigmoid"))
    x, logits, before = inputs(first, 25)
    program = kernels.program(isa)
    at, logits_at, into = program.buffer(96), program.buffer(E), program.buffer(96)
    for mixture in (first, second, first):
        routing = route(program, logits_at, mixture.router)
        experts(program, "experts", at, routing, *packed(kernels, mixture), out=into, add=True, factor=mixture.factor)
    for n in (25, 1, 7):
        program.write(at, x[:n])
        program.write(logits_at, logits[:n])
        program.write(into, before[:n])
        program.run(plain_step(n), 2)
        step = before[:n]
        for mixture in (first, second, first):
            step = Native(kernels, isa, mixture)(x[:n], logits[:n], step)
        assert torch.equal(program.read(into, n), step)


ADAPTED = {
    "Q4_0": MIXTURES["Q4_0"],
    "F32": MIXTURES["F32"],
    "BF16": MIXTURES["BF16"],
    "biases": MIXTURES["biases"],
    "on input": MIXTURES["on input"],
}
RANK = 5
SLOTS = ((0, 0, 0.5), (0, 2, 0.5), (1, 0, -0.25), (1, 1, -0.25), (2, 2, 2.0))
"""Slot, projection and factor of each adapter."""


def low_rank(mixture: Mixture, projection: int, slot: int) -> tuple[Tensor, Tensor]:
    """(A, B) of every expert."""
    n_out, n_in = mixture.shapes[projection]
    seed = 10_000 * (slot + 1) + 100 * projection
    return normal(E, RANK, n_in, seed=seed) / n_in**0.5, normal(E, n_out, RANK, seed=seed + 1)


def with_adapters(
    kernels: Kernels, mixture: Mixture, projections: Sequence[ExpertProjection]
) -> list[ExpertProjection]:
    def packed_all(values: Tensor) -> list[PackedMatrix]:
        return [kernels.matrix(value.contiguous().view(torch.uint8), "F32", value.shape[1]) for value in values]

    own: list[list[ExpertAdapter]] = [[], [], []]
    for slot, projection, factor in SLOTS:
        a, b = low_rank(mixture, projection, slot)
        own[projection].append(ExpertAdapter(slot, packed_all(a), packed_all(b), factor))
    return [replace(projection, adapters=adapters) for projection, adapters in zip(projections, own, strict=True)]


USERS = {
    "nobody": [[], [], []],
    "one row": [[], [7], []],
    "some rows": [[3, 0, 22], [1, 39, 30], [5]],
    "all rows": [list(range(0, 40, 2)), list(range(1, 40, 2)), []],
}


@pytest.mark.matrix
@pytest.mark.parametrize("users", USERS.values(), ids=USERS)
@pytest.mark.parametrize("mixture", ADAPTED.values(), ids=ADAPTED)
def test_adapters(kernels: Kernels, isa: str, mixture: Mixture, users: list[list[int]]) -> None:
    """B A x is added for each adapter's own rows; the others are to the bit as if there were no adapters."""
    x, logits, before = inputs(mixture, 40)
    plain_projections = packed(kernels, mixture)
    native = Native(kernels, isa, mixture, with_adapters(kernels, mixture, plain_projections))
    result = native(x, logits, before, 2, users)
    plain = [row for row in range(40) if not any(row in rows for rows in users)]
    assert torch.equal(result[plain], Native(kernels, isa, mixture, plain_projections)(x, logits, before)[plain])
    total, size = expected(mixture, x, logits, before, users)
    assert_near(result, total, size, 1e-3)


@pytest.mark.parametrize("name", ["Q4_0", "on input"])
def test_an_adapters_row_is_the_same_in_every_batch(kernels: Kernels, name: str) -> None:
    mixture = ADAPTED[name]
    x, logits, before = inputs(mixture, 40)
    users = USERS["some rows"]
    projections = with_adapters(kernels, mixture, packed(kernels, mixture))

    def compute(isa: str, threads: int) -> Tensor:
        native = Native(kernels, isa, mixture, projections)
        together = native(x, logits, before, threads, users)
        for rows in ([0], [5], [8], [39, 3, 0], list(range(39, -1, -1))):
            own = [[rows.index(row) for row in used if row in rows] for used in users]
            assert torch.equal(native(x[rows], logits[rows], before[rows], threads, own), together[rows])
        return together

    kernels.same_everywhere(compute)


def refused(kernels: Kernels, change: Callable[[list[ExpertProjection]], list[ExpertProjection]], what: str) -> None:
    mixture = replace(MIXTURES["biases"], width=64, hidden=32)
    program = kernels.program(kernels.extension.instruction_sets()[0])
    x, logits, out = program.buffer(64), program.buffer(E), program.buffer(64)
    projections = change(packed(kernels, mixture))
    with pytest.raises(ValueError, match=what):
        experts(program, "experts", x, route(program, logits, ROUTER), *projections, out=out, add=True)


def test_refusals(kernels: Kernels) -> None:
    pair = [kernels.matrix(normal(4, 64).view(torch.uint8), "F32", 64)] * E
    back = [kernels.matrix(normal(32, 4).view(torch.uint8), "F32", 4)] * E
    wide = [kernels.matrix(normal(64, 4).view(torch.uint8), "F32", 4)] * E
    refused(kernels, lambda p: [p[0], p[1], p[0]], "down matrix is not")
    refused(kernels, lambda p: [p[2], p[1], p[2]], "gate matrix is not")
    refused(kernels, lambda p: [replace(q, matrices=q.matrices[1:], biases=None) for q in p], "9 experts, not to 8")
    refused(kernels, lambda p: [p[0], replace(p[1], matrices=p[1].matrices[1:]), p[2]], "Each expert")
    refused(kernels, lambda p: [p[0], replace(p[1], biases=p[1].biases[1:]), p[2]], "bias for each expert")
    refused(kernels, lambda p: [replace(p[0], biases=p[2].biases), *p[1:]], "bias of 64")
    for adapter, what in (
        (ExpertAdapter(0, pair[1:], back[1:], 1.0), "a pair for each expert"),
        (ExpertAdapter(-1, pair, back, 1.0), "no adapters -1"),
        (ExpertAdapter(0, pair, wide, 1.0), "second matrix is not"),
        (ExpertAdapter(0, pair[:1] + wide[1:], back, 1.0), "first matrix is not"),
    ):
        refused(kernels, lambda p, adapter=adapter: [replace(p[0], adapters=[adapter]), *p[1:]], what)
