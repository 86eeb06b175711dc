"""Gates in C++: how a gate and an up become one, and sums that each row has a gate for."""

from __future__ import annotations

import math

import pytest
import torch
from cpu_steps import Kernels, assert_near, expected_product, plain_step, rows_of, stored_matrix
from torch import Tensor

from landrace.kernels.activation import Activation
from landrace.kernels.cpu.part import Epilogue, Part
from landrace.kernels.reference.dense import gated

ACTIVATIONS = [
    Activation(),
    Activation("clamp_before", limit=0.7),
    Activation("clamp_after", limit=0.5),
    Activation("oai", limit=0.6, alpha=1.702),
    Activation("clamp_before"),
    Activation("situ", limit=0.6, alpha=0.8),
    Activation("situ", alpha=1.0),
]


@pytest.mark.matrix
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("kind", ["F32", "Q4_0"])
def test_activations(kernels: Kernels, isa: str, kind: str, activation: Activation) -> None:
    """In a product and by themselves: the same bits, and near the reference."""
    all_stored = [stored_matrix(kind, 37, 64, seed) for seed in (1, 2)]
    matrices = [kernels.matrix(stored, kind, 64) for stored in all_stored]
    x = rows_of(14, 64)
    program = kernels.program(isa)
    at, gate, up, alone, within = program.buffer(64), *(program.buffer(37) for _ in range(4))
    program.product("both", at, [Part(matrix, out) for matrix, out in zip(matrices, (gate, up), strict=True)])
    program.gate(gate, up, alone, activation)
    part = Part(matrices[0], within, epilogue=Epilogue.GATE, gated=matrices[1], activation=activation)
    program.product("gated", at, [part])
    program.write(at, x)
    program.run(plain_step(14), 2)
    expected = gated(program.read(gate, 14).double(), program.read(up, 14).double(), activation)
    # Rounding alpha * gate moves its exponential by as much as it is large.
    assert_near(program.read(alone, 14), expected, expected.abs() + 1e-20, 4e-6)
    assert torch.equal(program.read(within, 14), program.read(alone, 14))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations_of_extremes(kernels: Kernels, activation: Activation) -> None:
    """What is no number stays none, and limits hold what is infinite."""
    extremes = torch.tensor([0.0, -0.0, 0.3, -0.3, 0.7, -0.7, 5.0, -5.0, 90.0, -90.0, 1e30, -1e30, math.inf, -math.inf])
    n = len(extremes) + 1
    gate, up = torch.cartesian_prod(*[torch.cat((extremes, torch.tensor([math.nan])))] * 2).view(n, n, 2).unbind(-1)

    def compute(isa: str, threads: int) -> Tensor:
        program = kernels.program(isa)
        gate_at, up_at, out = (program.buffer(n) for _ in range(3))
        program.gate(gate_at, up_at, out, activation)
        program.write(gate_at, gate.contiguous())
        program.write(up_at, up.contiguous())
        program.run(plain_step(n), threads)
        return program.read(out, n)

    result, expected = kernels.same_everywhere(compute), gated(gate.double(), up.double(), activation)
    assert result[gate.isnan() | up.isnan()].isnan().all()
    near = expected.isfinite() & (expected.abs() < 3e38)
    # e^-88 is the least that a sigmoid is.
    least = 1e-37 * (1 + gate.double().abs().clamp(max=1e38)) * (1 + up.double().abs().clamp(max=1e38))
    assert_near(result[near], expected[near], 1e-6 * expected[near].abs() + least[near], 1.0)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_gates_of_rows(kernels: Kernels, isa: str, threads: int) -> None:
    """Each row's sum times the sigmoid of its own number; rows of an adapter find theirs at their own places."""
    n, factor = 101, 0.6
    stored = stored_matrix("Q8_0", 33, 64)
    matrix = kernels.matrix(stored, "Q8_0", 64)
    x, before, gate = rows_of(n, 64), rows_of(n, 33, 2), rows_of(n, 1, 3)
    for rows in (None, [100, 3, 50, 51, 0]):
        program = kernels.program(isa)
        at, out, gate_at = program.buffer(64), program.buffer(33), program.buffer(1)
        part = Part(matrix, out, epilogue=Epilogue.ADD, factor=factor, row_gate=gate_at)
        places = {} if rows is None else {"rows": 0, "scatter": True}
        program.product("gated rows", at, [part], **places)
        program.write(at, x)
        program.write(out, before)
        program.write(gate_at, gate)
        program.run(plain_step(n, adapter_rows=[rows or []]), threads)
        chosen = torch.arange(n) if rows is None else torch.tensor(rows)
        y, size = expected_product(x[: len(chosen)], stored, "Q8_0")
        expected, bound = before.double(), before.abs().double()
        expected[chosen] += factor * gate[chosen].double().sigmoid() * y
        bound[chosen] += size
        assert_near(program.read(out, n), expected, bound)
