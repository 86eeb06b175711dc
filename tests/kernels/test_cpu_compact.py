"""Bfloat16 in 12 bits a weight: whatever the weights, nothing of them is lost, and products have the bits of 16."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from cpu_steps import POISONED_ROWS, Kernels, plain_step, poison, rows_of
from test_cpu_experts import Mixture, Native, inputs, packed
from torch import Tensor

from landrace.kernels.cpu import weights
from landrace.kernels.cpu.part import Epilogue, Part
from landrace.kernels.cpu.weights import PackedMatrix, WeightMemory, as_rows, matrix_bytes

ROWS = (1, 2, 3, 8, 9, 17, 48, 97)
SHAPES = ((1, 1), (16, 4), (17, 7), (3, 130), (33, 514), (40, 1028))
"""(n_out, n_in): inputs that are odd, and that are no whole four."""


def normal(n_out: int, n_in: int) -> Tensor:
    return torch.randn(n_out, n_in, generator=torch.Generator().manual_seed(n_in)).bfloat16()


def random_bits(n_out: int, n_in: int, mask: int, always: int = 0) -> Tensor:
    """Numbers whose bits are random where `mask` has ones, and those of `always`."""
    bits = torch.randint(0, 1 << 16, (n_out, n_in), generator=torch.Generator().manual_seed(n_out))
    return (bits & mask | always).to(torch.uint16).view(torch.bfloat16)


def with_some(values: Tensor, *others: float) -> Tensor:
    """Some of the values replaced, in places of every kind."""
    flat = values.clone().view(-1)
    draw = random.Random(len(flat))
    for place in (0, len(flat) - 1, *(draw.randrange(len(flat)) for _ in range(len(flat) // 50))):
        flat[place] = draw.choice(others)
    return flat.view(values.shape)


def rows_of_many_sizes(n_out: int, n_in: int) -> Tensor:
    return normal(n_out, n_in) * torch.exp2(-9.0 * torch.arange(n_out) % 120).bfloat16()[:, None]


FINITE: dict[str, Callable[[int, int], Tensor]] = {
    "normal": normal,
    "zeros": lambda *shape: torch.zeros(shape, dtype=torch.bfloat16),
    "zeros of both signs": lambda *shape: random_bits(*shape, 0x8000),
    "many zeros": lambda *shape: with_some(torch.zeros(shape, dtype=torch.bfloat16), 1.0, -0.0, -3e-5, 2.0**30),
    "subnormals": lambda *shape: random_bits(*shape, 0x807F),
    "some subnormals": lambda *shape: with_some(normal(*shape), 1e-39, -1e-40, -0.0),
    "outliers": lambda *shape: with_some(normal(*shape), 1e30, -3e38, 1e-30),
    "one exponent": lambda *shape: random_bits(*shape, 0x807F, 0x3F80),
    "rows of many sizes": rows_of_many_sizes,
    "many exponents": lambda *shape: random_bits(*shape, 0xBFFF),
}
ALL = FINITE | {
    "infinities": lambda *shape: with_some(normal(*shape), math.inf, -math.inf),
    "NaN": lambda *shape: with_some(normal(*shape), math.nan),
    "any NaN": lambda *shape: random_bits(*shape, 0x807F, 0x7F80),
    "any bits": lambda *shape: random_bits(*shape, 0xFFFF),
}


class Forms:
    """A matrix in 12 bits and the same one in 16."""

    def __init__(self, kernels: Kernels, monkeypatch: pytest.MonkeyPatch, values: Tensor) -> None:
        stored, block_type = as_rows(values)
        n_out, n_in = values.shape
        plain_bytes = matrix_bytes(kernels.extension, block_type, n_out, n_in)
        memory = WeightMemory(kernels.extension, kernels.pool, 6 * plain_bytes + 8192)
        made: list[PackedMatrix] = []
        for share in (math.inf, 0.0):
            monkeypatch.setattr(weights, "COMPACT_SHARE", share)
            made.append(memory.matrix(stored, block_type, n_in))
        self.compact, self.plain = made
        assert self.plain.n_bytes == plain_bytes


def bits(values: Tensor) -> Tensor:
    return values.view(torch.int32)


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Equal to the bit, zeros' signs included; NaN of any bits where the other is NaN."""
    nan = theirs.isnan()
    return torch.equal(ours.isnan(), nan) and torch.equal(bits(ours)[~nan], bits(theirs)[~nan])


@pytest.mark.parametrize("name", ALL)
def test_every_weight_is_kept(kernels: Kernels, isa: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each row looked up, as an embedding, in both forms: payloads of NaN too."""
    for n_out, n_in in SHAPES:
        values = ALL[name](n_out, n_in)
        both = Forms(kernels, monkeypatch, values)
        found = []
        for matrix in (both.compact, both.plain):
            program = kernels.program(isa)
            out = program.buffer(n_in)
            program.embedding(matrix, 1.0, out)
            program.run(plain_step(n_out, token_ids=torch.arange(n_out)), 2)
            found.append(program.read(out, n_out))
        assert same(found[0], values.float())
        assert torch.equal(bits(found[0]), bits(found[1]))


def product_of(kernels: Kernels, isa: str, matrix: PackedMatrix, x: Tensor, threads: int) -> Tensor:
    """Everything left over from before is NaN, and what lies past the rows stays so."""
    program = kernels.program(isa)
    at, out = program.buffer(matrix.n_in), program.buffer(matrix.n_out)
    program.product("product", at, [Part(matrix, out)])
    poison(program, {at: matrix.n_in, out: matrix.n_out})
    program.run(plain_step(POISONED_ROWS), threads)
    program.write(at, x)
    program.run(plain_step(len(x)), threads)
    result = program.read(out, POISONED_ROWS)
    assert result[len(x) :].isnan().all()
    return result[: len(x)]


@pytest.mark.parametrize("name", ALL)
def test_products_are_those_of_16_bits(kernels: Kernels, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """In every instruction set, with several threads, for rows of one pass and of several."""
    for n_out, n_in in SHAPES:
        both = Forms(kernels, monkeypatch, ALL[name](n_out, n_in))
        x = rows_of(ROWS[-1], n_in)
        x[2] = -0.0
        for isa in kernels.extension.instruction_sets():
            expected = product_of(kernels, isa, both.plain, x, 1)
            for n in ROWS:
                for threads in (1, 3) if n > 8 else (2,):
                    assert same(product_of(kernels, isa, both.compact, x[:n], threads), expected[:n]), (isa, n)


def test_each_weight_meets_its_own_input(kernels: Kernels, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row with a single one gives a column of the matrix, rare weights included."""
    for name in ("outliers", "rows of many sizes", "normal"):
        n_out, n_in = 37, 190
        values = FINITE[name](n_out, n_in)
        both = Forms(kernels, monkeypatch, values)
        columns = product_of(kernels, isa, both.compact, torch.eye(n_in), 2)
        singles = [product_of(kernels, isa, both.compact, torch.eye(n_in)[k : k + 1], 2) for k in range(0, n_in, 7)]
        assert torch.equal(columns, values.float().t())
        assert torch.equal(torch.cat(singles), values.float().t()[::7])


def test_rare_weights_cost_eight_bytes(kernels: Kernels) -> None:
    values = normal(32, 4096).float()
    # Seventeen exponents, of which the last one is seldom.
    values = torch.copysign(torch.exp2(values.abs().mul(5).floor().clamp(max=15)), values)
    stored, block_type = as_rows(values.bfloat16())
    common = kernels.matrix(stored, block_type, 4096)
    values.view(-1)[:: 32 * 4096 // 24] = 2.0**40
    some = kernels.matrix(as_rows(values.bfloat16())[0], block_type, 4096)
    assert common.n_bytes <= 0.752 * matrix_bytes(kernels.extension, block_type, 32, 4096)
    assert 0 < some.n_bytes - common.n_bytes <= 25 * 8 + 64


@pytest.mark.parametrize("name", ["many exponents", "any bits"])
def test_what_would_not_become_smaller_stays(kernels: Kernels, name: str) -> None:
    values = ALL[name](48, 512)
    kept = kernels.matrix(*as_rows(values), 512)
    assert kept.n_bytes == matrix_bytes(kernels.extension, "BF16", 48, 512)
    # As trained weights are: normal, rows of several sizes, a few outliers.
    sizes = torch.linspace(-2, 2, 48).exp2()[:, None]
    usual = with_some(normal(48, 512).float() * sizes, 30.0, 0.0).bfloat16()
    assert kernels.matrix(*as_rows(usual), 512).n_bytes < 0.8 * kept.n_bytes


@pytest.mark.parametrize("n_rows", [1, 5, 30])
def test_a_gate_of_both_forms(kernels: Kernels, isa: str, monkeypatch: pytest.MonkeyPatch, n_rows: int) -> None:
    n_out, n_in = 40, 300
    gate = Forms(kernels, monkeypatch, FINITE["some subnormals"](n_out, n_in))
    up = Forms(kernels, monkeypatch, FINITE["rows of many sizes"](n_out, n_in))
    x = rows_of(n_rows, n_in)
    results = []
    for one in (gate.plain, gate.compact):
        for other in (up.plain, up.compact):
            program = kernels.program(isa)
            at, out = program.buffer(n_in), program.buffer(n_out)
            program.product("gated", at, [Part(one, out, epilogue=Epilogue.GATE, gated=other)])
            program.write(at, x)
            program.run(plain_step(n_rows), 2)
            results.append(program.read(out, n_rows))
    assert all(same(result, results[0]) for result in results)


def test_experts_are_those_of_16_bits(kernels: Kernels, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = Mixture(("BF16", "BF16", "BF16"), 100, 54)
    x, logits, before = inputs(mixture, 70)
    results: dict[float, list[Tensor]] = {}
    for share in (1.0, 0.0):
        monkeypatch.setattr(weights, "COMPACT_SHARE", share)
        projections = packed(kernels, mixture)
        taken = sum(matrix.n_bytes for projection in projections for matrix in projection.matrices)
        native = Native(kernels, isa, mixture, projections)
        results[share] = [native(x[:n], logits[:n], before[:n], threads) for n in (1, 4, 70) for threads in (1, 3)]
        if share:
            least = taken
    assert least < 0.85 * taken
    assert all(map(same, results[1.0], results[0.0]))
