"""The C++ routing against the reference: every score, ties, groups, tables and what is no number."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from cpu_steps import Kernels, plain_step, poison
from torch import Tensor

from landrace.kernels.activation import Activation
from landrace.kernels.cpu.mixture import ExpertProjection, experts, route
from landrace.kernels.cpu.weights import WeightMemory, matrix_bytes
from landrace.kernels.reference.routing import Routing
from landrace.kernels.reference.routing import route as reference_route
from landrace.kernels.router import Router

E, K = 24, 5
SIGMOID = Router(K, "sigmoid", choice_bias=True, renorm=True)
ROUTERS = {
    "softmax": Router(K),
    "softmax, divided": Router(K, renorm=True),
    "softmax, biased": Router(K, choice_bias=True, renorm=True, renorm_floor=1e-12, renorm_added=0.0),
    "softmax, groups": Router(K, scale=2.5, n_groups=6, top_groups=3),
    "sigmoid": SIGMOID,
    "sigmoid, groups": replace(SIGMOID, scale=2.5, n_groups=4, top_groups=2, group_score="top2_sum"),
    "sqrt_softplus": Router(K, "sqrt_softplus", choice_bias=True, renorm=True, scale=1.5),
    "softmax_of_chosen": Router(K, "softmax_of_chosen"),
    "sigmoid_of_chosen": Router(1, "sigmoid_of_chosen"),
    "all": Router(E, renorm=True),
    "by token": Router(K, "sqrt_softplus", renorm=True, by_token=True),
}
TABLE = torch.stack([torch.randperm(E, generator=torch.Generator().manual_seed(i))[:K] for i in range(11)])


class Native:
    """A router, and experts that say who was chosen: expert e adds its weight to output e."""

    def __init__(self, kernels: Kernels, isa: str, router: Router, bias: Tensor) -> None:
        self.router, self.bias = router, bias if router.choice_bias else None
        program = self.program = kernels.program(isa)
        self.x, self.logits, self.out = program.buffer(1), program.buffer(E), program.buffer(E)
        routing = route(
            program,
            self.logits,
            router,
            choice_bias=kernels.vector(bias) if router.choice_bias else None,
            table=kernels.vector(TABLE.flatten()) if router.by_token else None,
        )
        one = [kernels.matrix(torch.ones(1, 1).view(torch.uint8), "F32", 1)] * E
        rows = torch.eye(E).view(torch.uint8)
        memory = WeightMemory(kernels.extension, kernels.pool, E * matrix_bytes(kernels.extension, "F32", E, 1))
        down = [memory.matrix(rows[e].view(E, 4), "F32", 1) for e in range(E)]
        # max(silu(1), 0.5) * clamp(1, +-0.5) twice over is 1 / 4.
        experts(
            program, "experts", self.x, routing, *(ExpertProjection(m) for m in (one, one, down)),
            activation=HALVES, out=self.out, add=False, factor=4.0,
        )  # fmt: skip

    def __call__(self, logits: Tensor, tokens: Tensor, threads: int = 1) -> Tensor:
        n = len(logits)
        self.program.write(self.x, torch.ones(n, 1))
        self.program.write(self.logits, logits)
        poison(self.program, {self.out: E})
        self.program.run(plain_step(n, token_ids=tokens), threads)
        return self.program.read(self.out, n)

    def expected(self, logits: Tensor, tokens: Tensor) -> Tensor:
        chosen = TABLE[tokens] if self.router.by_token else None
        return dense(reference_route(logits, self.router, choice_bias=self.bias, chosen=chosen))


def dense(routing: Routing) -> Tensor:
    return torch.zeros(len(routing.experts), E).scatter(1, routing.experts, routing.weights)


HALVES = Activation("clamp_after", limit=0.5)


def inputs(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The router's logits and the tokens."""
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, E, generator=generator), torch.randint(11, (n,), generator=generator)


BIAS = 0.3 * torch.randn(E, generator=torch.Generator().manual_seed(9))


@pytest.mark.matrix
@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
def test_routers(kernels: Kernels, isa: str, router: Router) -> None:
    native = Native(kernels, isa, router, BIAS)
    logits, tokens = inputs(70)
    for n in (0, 1, 2, 70):
        result = native(logits[:n], tokens[:n], 1 + n % 3)
        torch.testing.assert_close(result, native.expected(logits[:n], tokens[:n]), atol=1e-7, rtol=2e-6)


@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
def test_a_row_is_the_same_in_every_batch(kernels: Kernels, router: Router) -> None:
    """To the bit, near ties as well: some rows hold logits a unit in the last place apart."""
    logits, tokens = inputs(120)
    steps = torch.randint(0, 3, (60, E), generator=torch.Generator().manual_seed(2))
    logits[:60] = (torch.ones(60, E).view(torch.int32) + steps.int()).view(torch.float32)

    def compute(isa: str, threads: int) -> Tensor:
        native = Native(kernels, isa, router, BIAS)
        together = native(logits, tokens, threads)
        draw = random.Random(threads)
        for n in (1, 1, 2, 3, 50):
            rows = draw.sample(range(len(logits)), n)
            assert torch.equal(native(logits[rows], tokens[rows], threads), together[rows])
        return together

    kernels.same_everywhere(compute)


@pytest.mark.matrix
@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
def test_of_equal_scores_the_first_experts_win(kernels: Kernels, isa: str, router: Router) -> None:
    """As in the reference."""
    native = Native(kernels, isa, router, torch.zeros(E))
    logits = torch.randint(0, 3, (90, E), generator=torch.Generator().manual_seed(1)).float()
    tokens = torch.arange(90) % 11
    expected = native.expected(logits, tokens)
    result = native(logits, tokens)
    assert torch.equal(result > 0, expected > 0)
    torch.testing.assert_close(result, expected, atol=1e-7, rtol=2e-6)


@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
def test_extreme_logits(kernels: Kernels, router: Router) -> None:
    """Huge and tiny ones; infinity and NaN make no numbers of their own rows alone."""
    logits, tokens = inputs(8)
    logits[0] *= 1e4
    logits[1] *= 1e-30
    logits[2] = -80.0
    logits[3, 1::2] = -math.inf
    clean = logits.clone()
    logits[5], logits[6, 3] = math.nan, math.nan

    def compute(isa: str, threads: int) -> Tensor:
        native = Native(kernels, isa, router, BIAS)
        result = native(logits, tokens, threads)
        good = [0, 1, 2, 3, 4, 7]
        torch.testing.assert_close(result[good], native.expected(clean, tokens)[good], atol=1e-7, rtol=2e-6)
        assert result[5].isnan().any()
        return result

    kernels.same_everywhere(compute)


def test_scores_near_nothing(kernels: Kernels, isa: str) -> None:
    """log(1 + e^x) keeps its digits where e^x is small, and where x is great."""
    router = Router(1, "sqrt_softplus")
    logits = torch.full((200, E), -1e4)
    logits[:, 3] = torch.linspace(-80, 80, 200)
    result = Native(kernels, isa, router, BIAS)(logits, torch.zeros(200, dtype=torch.long))
    expected = torch.nn.functional.softplus(logits[:, 3].double()).sqrt()
    torch.testing.assert_close(result[:, 3].double(), expected, atol=0, rtol=1e-6)


REFUSALS = {
    "groups that do not divide the experts": replace(ROUTERS["softmax, groups"], n_groups=5),
    "more groups than there are": replace(ROUTERS["softmax, groups"], top_groups=7),
    "groups of one": Router(2, n_groups=24, top_groups=3, group_score="top2_sum"),
    "more experts than the groups have": Router(9, n_groups=6, top_groups=2),
    "no expert": Router(0),
}


@pytest.mark.parametrize("router", REFUSALS.values(), ids=REFUSALS)
def test_refusals(kernels: Kernels, router: Router) -> None:
    with pytest.raises(ValueError):
        Native(kernels, kernels.extension.instruction_sets()[0], router, BIAS)


def test_tables_that_do_not_fit(kernels: Kernels) -> None:
    program = kernels.program(kernels.extension.instruction_sets()[0])
    logits = program.buffer(E)
    router = ROUTERS["by token"]
    for table, what in (
        (TABLE.flatten()[:-1], "whole rows"),
        (TABLE * 0, "token 0"),
        (TABLE + E, "token"),
        (TABLE + 0.5, "token"),
    ):
        with pytest.raises(ValueError, match=what):
            route(program, logits, router, table=kernels.vector(table.flatten()))
    for bias in (None, kernels.vector(BIAS[:-1])):
        with pytest.raises(ValueError, match="bias"):
            route(program, logits, SIGMOID, choice_bias=bias)
    native = Native(kernels, kernels.extension.instruction_sets()[0], router, BIAS)
    with pytest.raises(IndexError, match="token"):
        native(*inputs(1)[:1], torch.tensor([11]))
