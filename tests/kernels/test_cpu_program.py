"""Programs of the C++ kernels: norms and activations, replays, and what programs keep alive."""

from __future__ import annotations

import gc
import math

import pytest
import torch
from cpu_steps import Kernels, assert_near, assert_same, plain_step, poison, stored_matrix
from torch import Tensor

from landrace.kernels.cpu.part import Part
from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.weights import KINDS, WeightMemory, as_rows, matrix_bytes
from landrace.kernels.reference.dense import gated, rms_norm

WIDTHS = (1, 7, 15, 16, 17, 31, 64, 100, 576)
EXTREMES = (0.0, -0.0, 1e-45, -1e-40, 1e-20, 3.0, -90.0, 90.0, -1e4, 1e4, 1e18, -1e25, 3e38)


def rows_of(n: int, width: int, seed: int = 1) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.matrix
@pytest.mark.parametrize("width", WIDTHS)
def test_norms(kernels: Kernels, isa: str, width: int) -> None:
    weight, eps, factor = rows_of(1, width, 2)[0], 1e-3, 0.6
    x, before = rows_of(40, width), rows_of(40, width, 3)
    program = kernels.program(isa)
    at, out, sum_at, scaled_at = (program.buffer(width) for _ in range(4))
    packed = kernels.vector(weight)
    program.norm(at, packed, eps, out)
    program.norm(at, packed, eps, sum_at, factor=factor, add=True)
    program.norm(at, packed, eps, scaled_at, factor=factor)
    for n in (0, 1, 2, 5, 40):
        poison(program, {at: width, out: width, sum_at: width, scaled_at: width})
        program.write(at, x[:n])
        program.write(sum_at, before[:n])
        program.run(plain_step(n), threads=1 + n % 3)
        expected = rms_norm(x[:n], weight, eps).double()
        assert_near(program.read(out, n), expected, expected.abs(), 1e-6)
        assert_near(program.read(scaled_at, n), factor * expected, expected.abs(), 1e-6)
        total = before[:n] + factor * expected
        assert_near(program.read(sum_at, n), total, before[:n].abs() + expected.abs(), 1e-6)
        assert program.read(sum_at, n + 1)[n].isnan().all()


@pytest.mark.matrix
@pytest.mark.parametrize("width", WIDTHS)
def test_gates(kernels: Kernels, isa: str, width: int) -> None:
    gate, up = rows_of(40, width, 4) * 10, rows_of(40, width, 5)
    program = kernels.program(isa)
    gate_at, up_at, out = (program.buffer(width) for _ in range(3))
    program.gate(gate_at, up_at, out)
    for n in (0, 1, 2, 5, 40):
        poison(program, {gate_at: width, up_at: width, out: width})
        program.write(gate_at, gate[:n])
        program.write(up_at, up[:n])
        program.run(plain_step(n), threads=1 + n % 3)
        expected = gated(gate[:n].double(), up[:n].double())
        assert_near(program.read(out, n), expected, expected.abs() + 1e-20, 1e-6)
        assert program.read(out, n + 1)[n].isnan().all()


def test_extreme_values(kernels: Kernels) -> None:
    """Next to one another in one row for gates, and a row each for norms; NaN and infinity in rows of their own."""
    extremes = torch.tensor(EXTREMES)
    n = len(EXTREMES)
    x = rows_of(n + 3, 20)
    x[:n] = (x[:n] / 8).clamp(-1, 1) * extremes[:, None]
    x[n, 3], x[n + 1, 4], x[n + 2, 19] = math.nan, math.inf, -math.inf
    gate, up = torch.cartesian_prod(extremes, extremes).view(n, n, 2).unbind(-1)
    weight = rows_of(1, 20, 2)[0]

    def compute(isa: str, threads: int) -> Tensor:
        program = kernels.program(isa)
        at, out = program.buffer(20), program.buffer(20)
        gate_at, up_at, gated_at = (program.buffer(n) for _ in range(3))
        program.norm(at, kernels.vector(weight), 1e-5, out)
        program.gate(gate_at, up_at, gated_at)
        program.write(at, x)
        program.write(gate_at, gate.contiguous())
        program.write(up_at, up.contiguous())
        program.run(plain_step(n + 3), threads)
        normed, mixed = program.read(out, n + 3), program.read(gated_at, n)
        assert normed[n].isnan().all()
        assert not normed[n + 1, 4].isfinite()
        assert not normed[n + 2, 19].isfinite()
        return torch.cat((normed.flatten(), mixed.flatten()))

    result = kernels.same_everywhere(compute)
    normed, mixed = result[: 20 * (n + 3)].view(-1, 20), result[20 * (n + 3) :].view(n, n)
    # Squares past the greatest float32 make a norm of zero, here as in the reference.
    expected = rms_norm(x[:n], weight, 1e-5)
    assert_near(normed[:n], expected.double(), expected.abs() + 1e-20, 1e-6)
    both = gated(gate.double(), up.double())
    fits = both.abs() < 3e38
    # Below -88 the sigmoid is e^-88 and not less, and half of the least float32 is nothing.
    least = up.double().abs() * (1.01 * math.exp(-88) * gate.abs() + 1e-45)
    bound = 1e-6 * both.abs() + least + 1e-38
    assert_near(mixed[fits], both[fits], bound[fits], 1.0)
    assert (mixed[~fits].abs() > 3e38).all()


def test_a_gate_that_is_no_number(kernels: Kernels, isa: str) -> None:
    program = kernels.program(isa)
    gate_at, up_at, out = (program.buffer(18) for _ in range(3))
    program.gate(gate_at, up_at, out)
    gate, up = torch.ones(2, 18), torch.ones(2, 18)
    gate[0, 17], up[1, 2] = math.nan, math.nan
    program.write(gate_at, gate)
    program.write(up_at, up)
    program.run(plain_step(2), 2)
    assert torch.equal(program.read(out, 2).isnan(), gate.isnan() | up.isnan())


def test_replays_of_programs_that_share_a_pool(kernels: Kernels, isa: str) -> None:
    """Steps of changing size with changing numbers of threads (0: as it likes), of two programs in turn."""
    programs = []
    for seed, kind in enumerate(("Q4_0", "F32")):
        program = kernels.program(isa)
        at, low, out = program.buffer(64), program.buffer(48), program.buffer(40)
        first = kernels.matrix(stored_matrix(kind, 48, 64, seed), kind, 64)
        second = kernels.matrix(stored_matrix("F32", 40, 48, seed + 5), "F32", 48)
        program.product("first", at, [Part(first, low)])
        program.gate(low, low, low)
        program.product("second", low, [Part(second, out)])
        programs.append((program, at, out))
    x = rows_of(130, 64)
    whole = []
    for program, at, out in programs:
        program.write(at, x)
        program.run(plain_step(130), 1)
        whole.append(program.read(out, 130))
    for turn in range(200):
        program, at, out = programs[turn % 2]
        n = (1, 1, 4, 130, 2, 17)[turn % 6]
        program.write(at, x[turn % 5 :][:n])
        if turn % 7:
            program.run(plain_step(min(n, 130 - turn % 5)), turn % 4)
        else:
            names = [name for name, _ in program.profile(plain_step(min(n, 130 - turn % 5)), 1 + turn % 3)]
            assert names == ["first", "gate", "second"]
        assert torch.equal(program.read(out, min(n, 130 - turn % 5)), whole[turn % 2][turn % 5 :][:n])


def test_rows_may_be_written_before_all_is_recorded(kernels: Kernels, isa: str) -> None:
    program = kernels.program(isa)
    at, out = program.buffer(512), program.buffer(20)
    x = rows_of(50, 512)
    program.write(at, x)
    matrix = kernels.matrix(stored_matrix("Q8_0", 20, 512), "Q8_0", 512)
    program.product("late", at, [Part(matrix, out)])
    results = []
    for threads in (2, 1, 3):
        program.run(plain_step(50), threads)
        results.append(program.read(out, 50))
    assert results[0].isfinite().all() and results[0].abs().max() > 1
    assert_same(results[1], results[0])
    assert_same(results[2], results[0])


def test_weights_live_as_long_as_what_uses_them(kernels: Kernels, isa: str) -> None:
    stored, _ = as_rows(rows_of(64, 512))

    def record(program: Program) -> tuple[int, int]:
        memory = WeightMemory(kernels.extension, kernels.pool, matrix_bytes(kernels.extension, "F32", 64, 512) + 8192)
        at, out = program.buffer(512), program.buffer(64)
        matrix, norm = memory.matrix(stored, "F32", 512), memory.vector(torch.ones(512))
        program.product("product", at, [Part(matrix, out)], norm=norm, eps=1e-5)
        return at, out

    program = kernels.program(isa)
    at, out = record(program)
    gc.collect()
    # Whoever takes the memory next writes other numbers into it.
    other = [torch.full((1 << 21,), 7.0) for _ in range(4)]
    x = rows_of(3, 512, 8)
    program.write(at, x)
    program.run(plain_step(3), 1)
    expected = rms_norm(x, torch.ones(512), 1e-5).double() @ rows_of(64, 512).double().t()
    assert len(other) == 4
    assert_near(program.read(out, 3), expected, 100.0)


def test_every_kind_is_known(kernels: Kernels) -> None:
    """The order of the names is the order of the kernels' own numbers: sizes tell them apart."""
    sizes = {kind: matrix_bytes(kernels.extension, kind, 16, 256) for kind in KINDS}
    expected = {
        "F32": 16 * 256 * 4, "F16": 16 * 256 * 2, "BF16": 16 * 256 * 2, "Q4_0": 16 * 8 * 18, "Q4_1": 16 * 8 * 20,
        "Q5_0": 16 * 8 * 22, "Q5_1": 16 * 8 * 24, "Q8_0": 16 * 8 * 34,
    }  # fmt: skip
    assert {kind: sizes[kind] for kind in expected} == expected
    assert 16 * 144 <= sizes["Q4_K"] <= 1.05 * 16 * 144
    assert 16 * 176 <= sizes["Q5_K"] <= 1.05 * 16 * 176
    assert 16 * 210 <= sizes["Q6_K"] <= 1.05 * 16 * 210
