"""What the C++ kernels do to heads: rotations, norms, temperatures, sinks, slopes and gates, near the reference."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from attention_cases import CACHES, Case, check, serve
from cpu_steps import Kernels, assert_near, plain_step, poison
from cut_sequences import at_once, at_random, one_by_one
from torch import Tensor

from landrace.kernels.cpu.cache import Heads
from landrace.kernels.head_form import QkNorm, Temperature
from landrace.kernels.mask import Chunked, Sliding
from landrace.kernels.reference.heads import gated_heads

NORMS = [
    None,
    QkNorm("before_rope"),
    QkNorm("after_rope"),
    QkNorm("before_rope", over="all_heads"),
    QkNorm("after_rope", over="all_heads"),
    QkNorm("before_rope", kind="l2"),
    QkNorm("after_rope", kind="l2"),
]


@pytest.mark.matrix
@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize(("head_dim", "half"), [(64, 32), (64, 16), (64, 0), (12, 6), (12, 2), (80, 40), (34, 17)])
def test_rotations_and_norms(kernels: Kernels, isa: str, head_dim: int, half: int, norm: QkNorm | None) -> None:
    case = Case(Heads(4, 2, head_dim), (1, 20, 9), rotary_half=half, norm=norm, scale=head_dim**-0.5)
    for dtype in CACHES:
        check(kernels, isa, 1, replace(case, dtype=dtype), at_once(case))


@pytest.mark.parametrize("floor", [1, 4, 8192])
def test_temperatures(kernels: Kernels, isa: str, floor: int) -> None:
    """Over many steps of the logarithm, which the kernels compute on their own."""
    case = Case(Heads(2, 1, 8), (300, 7), temperature=Temperature(0.3, floor))
    check(kernels, isa, 2, case, at_once(case))


@pytest.mark.matrix
@pytest.mark.parametrize("mask", [Sliding(9), Sliding(300), Chunked(8), Chunked(300)], ids=str)
@pytest.mark.parametrize(("sinks", "alibi"), [(True, False), (False, True), (True, True)])
def test_sinks_and_slopes(kernels: Kernels, isa: str, mask: Sliding | Chunked, sinks: bool, alibi: bool) -> None:
    case = Case(Heads(6, 2, 16), (3, 40, 530), mask=mask, sinks=sinks, alibi=alibi)
    check(kernels, isa, 1, case, at_once(case))
    check(kernels, isa, 3, case, one_by_one(case, prefill=526))
    check(kernels, isa, 2, replace(case, dtype=torch.int8), at_random(case, seed=2, most=200))


def test_a_sink_without_bounds(kernels: Kernels) -> None:
    """One of -infinity takes no weight, a great one takes all of it, and one that is no number leaves none."""
    case = Case(Heads(4, 2, 16), (20,))

    class Sunk(Case):
        def head_sinks(self) -> Tensor | None:
            return torch.tensor([-math.inf, 1e30, math.nan, 0.0])

    def compute(isa: str, threads: int) -> Tensor:
        return serve(kernels, isa, threads, Sunk(case.heads, case.lengths), at_once(case)).out[0]

    result = kernels.same_everywhere(compute)
    assert torch.equal(result[:, 0], serve(kernels, "plain", 1, case, at_once(case)).out[0][:, 0])
    assert (result[:, 1] == 0).all()
    assert result[:, 2].isnan().all()
    assert result[:, 3].isfinite().all()


@pytest.mark.parametrize(("n_heads", "head_dim"), [(1, 1), (3, 16), (5, 20), (2, 128)])
def test_gates_of_heads(kernels: Kernels, isa: str, n_heads: int, head_dim: int) -> None:
    generator = torch.Generator().manual_seed(n_heads)
    x, gate = torch.randn(17, n_heads * head_dim, generator=generator), torch.randn(17, n_heads, generator=generator)
    gate[0, 0], gate[1, 0] = 200.0, -200.0
    program = kernels.program(isa)
    at, gate_at, out = program.buffer(n_heads * head_dim), program.buffer(n_heads), program.buffer(n_heads * head_dim)
    program.gate_heads(at, gate_at, out)
    program.gate_heads(at, gate_at, at)
    expected = gated_heads(x.double().view(17, n_heads, head_dim), gate.double()).flatten(1)
    for n in (0, 1, 17):
        poison(program, {at: n_heads * head_dim, out: n_heads * head_dim})
        program.write(at, x[:n])
        program.write(gate_at, gate[:n])
        program.run(plain_step(n), 1 + n % 3)
        assert_near(program.read(out, n), expected[:n], expected[:n].abs() + 1e-20, 1e-6)
        assert torch.equal(program.read(out, n), program.read(at, n))
        assert program.read(out, n + 1)[n].isnan().all()
