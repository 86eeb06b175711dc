"""Products of the C++ kernels: every block type, shape, row count and epilogue, in every instruction set."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from cpu_steps import (
    FLOATS,
    POISONED_ROWS,
    QUANTISED,
    Kernels,
    as_kernel_sees,
    assert_near,
    assert_same,
    expected_product,
    plain_step,
    poison,
    rows_of,
    stored_matrix,
)
from torch import Tensor

from landrace.kernels.cpu.part import Epilogue, Part
from landrace.kernels.cpu.weights import KINDS
from landrace.kernels.reference.blocks import BLOCKS, dequantize
from landrace.kernels.reference.dense import rms_norm

ROWS = (0, 1, 2, 3, 4, 5, 8, 9, 12, 13, 16, 17, 37, 96, 97, 200)


def shapes(kind: str) -> tuple[tuple[int, int], ...]:
    """(n_out, n_in)."""
    if kind in FLOATS:
        return ((1, 1), (17, 7), (33, 100), (16, 32))
    if kind.endswith(("K", "XS")):
        return ((17, 256), (40, 512))
    return ((1, 32), (40, 64), (17, 96), (33, 576))


class OneProduct:
    """x times one matrix, as a program."""

    def __init__(self, kernels: Kernels, isa: str, stored: Tensor, kind: str, n_in: int) -> None:
        self.n_out, self.n_in = stored.shape[0], n_in
        self.program = kernels.program(isa)
        self.x, self.out = self.program.buffer(n_in), self.program.buffer(self.n_out)
        part = Part(kernels.matrix(stored, kind, n_in), self.out)
        self.program.product("product", self.x, [part])

    def __call__(self, x: Tensor, threads: int = 1) -> Tensor:
        """Everything left over from before is NaN, and what lies past the rows stays so."""
        n = x.shape[0]
        poison(self.program, {self.x: self.n_in, self.out: self.n_out})
        self.program.run(plain_step(POISONED_ROWS), threads)
        self.program.write(self.x, x)
        self.program.run(plain_step(n), threads)
        out = self.program.read(self.out, POISONED_ROWS)
        assert out[n:].isnan().all()
        return out[:n]


@pytest.mark.parametrize("kind", KINDS)
def test_products(kernels: Kernels, isa: str, kind: str) -> None:
    for n_out, n_in in shapes(kind):
        stored = stored_matrix(kind, n_out, n_in, seed=n_in)
        product = OneProduct(kernels, isa, stored, kind, n_in)
        x = rows_of(ROWS[-1], n_in)
        expected, size = expected_product(x, stored, kind)
        for n in ROWS:
            assert_near(product(x[:n], threads=1 + n % 3), expected[:n], size[:n])
        # Rounding the rows costs at most half a step of each: in 8 bits 1/254 of the greatest of 32, in bfloat16 1/256.
        weights = dequantize(stored, kind, n_in).double()
        steps = x.double().abs() @ weights.abs().t() / 256 if kind == "BF16" else torch.zeros_like(expected)
        if kind in QUANTISED:
            greatest = x.view(len(x), -1, 32).abs().amax(-1).double() / 254
            steps = greatest @ weights.abs().view(n_out, -1, 32).sum(-1).t()
        assert_near(product(x), x.double() @ weights.t(), 1.001 * steps + 1e-5 * size, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_in_every_batch(kernels: Kernels, kind: str) -> None:
    """Alone, at any place among others, with any number of threads, in any instruction set: to the bit."""
    n_out, n_in = shapes(kind)[-1]
    stored = stored_matrix(kind, n_out, n_in)
    x = rows_of(ROWS[-1], n_in)

    def compute(isa: str, threads: int) -> Tensor:
        product = OneProduct(kernels, isa, stored, kind, n_in)
        together = product(x, threads)
        draw = random.Random(threads)
        for n in (1, 1, 1, 2, 3, 4, 5, 7, 11, 12, 13, 30, 97, 100):
            chosen = torch.tensor(draw.sample(range(len(x)), n))
            assert torch.equal(product(x[chosen], threads), together[chosen]), (isa, threads, n)
        return together

    kernels.same_everywhere(compute)


@pytest.mark.matrix
@pytest.mark.parametrize("kind", KINDS)
def test_an_embedding_is_the_row_to_the_bit(kernels: Kernels, isa: str, kind: str) -> None:
    for n_out, n_in in shapes(kind):
        stored = stored_matrix(kind, n_out, n_in, seed=7)
        values = dequantize(stored, kind, n_in)
        table = kernels.matrix(stored, kind, n_in)
        tokens = torch.randint(0, n_out, (21,), generator=torch.Generator().manual_seed(1))
        for factor in (1.0, 1.3):
            program = kernels.program(isa)
            out = program.buffer(n_in)
            program.embedding(table, factor, out)
            poison(program, {out: n_in})
            program.run(plain_step(21, token_ids=tokens), 2)
            assert_same(program.read(out, 21), values[tokens] * factor)
            assert program.read(out, 22)[21].isnan().all()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_blocks_that_another_program_made(kernels: Kernels, isa: str, kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    values = rows_of(19, 96, seed=4)
    qtype = gguf.GGMLQuantizationType[kind]
    stored = torch.from_numpy(gguf.quants.quantize(values.numpy(), qtype))
    theirs = torch.from_numpy(gguf.quants.dequantize(stored.numpy(), qtype)).double()
    x = rows_of(5, 96)
    seen = as_kernel_sees(x, kind)
    result = OneProduct(kernels, isa, stored, kind, 96)(x)
    assert_near(result, seen @ theirs.t(), seen.abs() @ theirs.abs().t())


KIND_PAIRS = [("Q4_0", "Q8_0"), ("F32", "Q4_1"), ("BF16", "F16"), ("Q6_K", "Q4_K"), ("Q5_K", "F32")]


@pytest.mark.matrix
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("kind", "other"), KIND_PAIRS)
def test_epilogues(kernels: Kernels, isa: str, kind: str, other: str, biased: bool) -> None:
    """One product with a part of each epilogue, over a norm, in matrices of two kinds."""
    n_in, n_out, n_rows, eps, factor = 256, 37, 14, 1e-3, -0.7
    stored, stored_other = stored_matrix(kind, n_out, n_in, 1), stored_matrix(other, n_out, n_in, 2)
    one, two = kernels.matrix(stored, kind, n_in), kernels.matrix(stored_other, other, n_in)
    x, before, weight = rows_of(n_rows, n_in), rows_of(n_rows, n_out, 3), rows_of(1, n_in, 4)[0]
    bias, other_bias = rows_of(2, n_out, 5) if biased else torch.zeros(2, n_out)
    packed_bias = kernels.vector(bias) if biased else None
    packed_other_bias = kernels.vector(other_bias) if biased else None

    for normed in (False, True):
        program = kernels.program(isa)
        at = program.buffer(n_in)
        stored_at, added_at, gated_at, other_at = (program.buffer(n_out) for _ in range(4))
        program.product(
            "all",
            at,
            [
                Part(one, stored_at, packed_bias),
                Part(one, added_at, packed_bias, Epilogue.ADD, factor),
                Part(one, gated_at, packed_bias, Epilogue.GATE, gated=two, gated_bias=packed_other_bias),
                Part(two, other_at, packed_other_bias),
            ],
            norm=kernels.vector(weight) if normed else None,
            eps=eps,
        )
        poison(program, {at: n_in, stored_at: n_out, gated_at: n_out, other_at: n_out})
        program.write(at, x)
        program.write(added_at, before)
        program.run(plain_step(n_rows), 2)
        seen = rms_norm(x, weight, eps) if normed else x
        # A norm that rounds otherwise may move a value by a whole 8-bit step, where it lies between two.
        tolerance = 3e-4 if normed else 1e-5
        y, size = expected_product(seen, stored, kind)
        y2, size2 = expected_product(seen, stored_other, other)
        y, y2, size, size2 = y + bias, y2 + other_bias, size + bias.abs(), size2 + other_bias.abs()
        assert_near(program.read(stored_at, n_rows), y, size, tolerance)
        assert_near(program.read(other_at, n_rows), y2, size2, tolerance)
        assert_near(program.read(added_at, n_rows), before + factor * y, before.abs() + size, tolerance)
        silu = y * y.sigmoid()
        bound = (size * y2.abs() * 1.1 + silu.abs() * size2) * tolerance + 1e-6 * (silu * y2).abs()
        assert_near(program.read(gated_at, n_rows), silu * y2, bound, 1.0)
        assert program.read(gated_at, n_rows + 1)[n_rows].isnan().all()


@pytest.mark.matrix
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("kind", ["F32", "BF16", "Q4_0", "Q6_K"])
def test_what_is_stored_takes_its_factor(kernels: Kernels, isa: str, kind: str, biased: bool) -> None:
    stored, x = stored_matrix(kind, 21, 256), rows_of(9, 256)
    bias = rows_of(1, 21, 2)[0] if biased else torch.zeros(21)
    program = kernels.program(isa)
    at, out = program.buffer(256), program.buffer(21)
    part = Part(kernels.matrix(stored, kind, 256), out, kernels.vector(bias) if biased else None, factor=-0.3)
    program.product("scaled", at, [part])
    program.write(at, x)
    program.run(plain_step(9), 1)
    y, size = expected_product(x, stored, kind)
    assert_near(program.read(out, 9), -0.3 * (y + bias), size + bias.abs())


@pytest.mark.parametrize(("kind", "other"), KIND_PAIRS)
def test_several_parts_equal_single_products(kernels: Kernels, kind: str, other: str) -> None:
    """Tiles of parts of different kinds and sizes are cut among threads: each part is as if it were alone."""
    x = rows_of(29, 256)
    sizes = ((kind, 50), (other, 1), (kind, 16), ("Q4_0", 33))
    all_stored = [stored_matrix(k, n, 256, seed) for seed, (k, n) in enumerate(sizes)]

    def compute(isa: str, threads: int) -> Tensor:
        program = kernels.program(isa)
        at = program.buffer(256)
        outs = [program.buffer(n) for _, n in sizes]
        matrices = [kernels.matrix(s, k, 256) for s, (k, _) in zip(all_stored, sizes, strict=True)]
        program.product("parts", at, [Part(m, out) for m, out in zip(matrices, outs, strict=True)])
        program.write(at, x)
        program.run(plain_step(29), threads)
        result = torch.cat([program.read(out, 29) for out in outs], dim=1)
        singles = [
            OneProduct(kernels, isa, stored, k, 256)(x) for stored, (k, _) in zip(all_stored, sizes, strict=True)
        ]
        assert torch.equal(result, torch.cat(singles, dim=1))
        return result

    kernels.same_everywhere(compute)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("kind", ["F32", "BF16", "I4_F16"])
def test_inputs_in_an_order_of_their_own(kernels: Kernels, kind: str, normed: bool) -> None:
    """As if the rows' values had been put into that order, to the bit; several orders beside one another."""
    x, weight = rows_of(29, 96), torch.rand(96) + 0.5
    stored = [stored_matrix(kind, n_out, 96, seed=n_out) for n_out in (40, 17, 16)]
    orders = [torch.randperm(96, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]

    def compute(isa: str, threads: int) -> Tensor:
        program = kernels.program(isa)
        at = program.buffer(96)
        outs = [program.buffer(len(one)) for one in stored]
        first, second = (kernels.vector(order.float()) for order in orders)
        matrices = [
            replace(kernels.matrix(one, kind, 96), order=order)
            for one, order in zip(stored, (first, second, first), strict=True)
        ]
        parts = [Part(matrix, out) for matrix, out in zip(matrices, outs, strict=True)]
        program.product("parts", at, parts, norm=kernels.vector(weight) if normed else None, eps=1e-6)
        program.write(at, x)
        program.run(plain_step(29), threads)
        result = [program.read(out, 29) for out in outs]
        rows = x
        if normed:
            normalise = kernels.program(isa)
            at, to = normalise.buffer(96), normalise.buffer(96)
            normalise.norm(at, kernels.vector(weight), 1e-6, to)
            normalise.write(at, x)
            normalise.run(plain_step(29), threads)
            rows = normalise.read(to, 29)
        for one, order, found in zip(stored, (orders[0], orders[1], orders[0]), result, strict=True):
            assert torch.equal(found, OneProduct(kernels, isa, one, kind, 96)(rows[:, order].contiguous(), threads))
        return torch.cat(result, dim=1)

    kernels.same_everywhere(compute)


@pytest.mark.parametrize("kind", ["F32", "Q4_0", "Q6_K"])
def test_logits_of_wanted_rows(kernels: Kernels, isa: str, kind: str) -> None:
    stored = stored_matrix(kind, 50, 256)
    x = rows_of(20, 256)
    whole = OneProduct(kernels, isa, stored, kind, 256)(x)
    program = kernels.program(isa)
    at = program.buffer(256)
    program.product(
        "head", at, [Part(kernels.matrix(stored, kind, 256), program.logits)], rows=program.logit_rows, gather=True
    )
    program.write(at, x)
    for wanted in ((), (19,), (3, 0, 3), tuple(range(20)), tuple(range(19, -1, -1)) * 3):
        for threads in (1, 2, 3):
            program.write(at, x)
            logits = program.run(plain_step(20, logit_rows=wanted), threads)
            assert logits.shape == (len(wanted), 50)
            assert torch.equal(logits, whole[list(wanted)])


@pytest.mark.matrix
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_rows_of_adapters(kernels: Kernels, isa: str, kind: str, threads: int) -> None:
    """B A x of each adapter is added to its own rows, and the others stay as they were."""
    n_rows, n_in, rank, n_out, factor = 33, 64, 8, 40, 0.5
    x, before = rows_of(n_rows, n_in), rows_of(n_rows, n_out, 2)
    down = [stored_matrix(kind, rank, n_in, seed) for seed in (1, 2)]
    up = [torch.randn(n_out, rank, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4)]
    program = kernels.program(isa)
    at, out, low = program.buffer(n_in), program.buffer(n_out), program.buffer(rank)
    for slot in (0, 1):
        a = kernels.matrix(down[slot], kind, n_in)
        b = kernels.matrix(up[slot].view(torch.uint8), "F32", rank)
        program.product("a", at, [Part(a, low)], rows=slot, gather=True)
        program.product("b", low, [Part(b, out, epilogue=Epilogue.ADD, factor=factor)], rows=slot, scatter=True)
    for rows in ([[], []], [[5], []], [[], list(range(33))], [[32, 0, 7], [1, 30, 31]], [list(range(0, 33, 2)), [5]]):
        poison(program, {low: rank})
        program.write(at, x)
        program.write(out, before)
        program.run(plain_step(n_rows, adapter_rows=rows), threads)
        expected, size = before.double(), before.abs().double()
        for slot in (0, 1):
            y, bound = expected_product(x[rows[slot]], down[slot], kind)
            expected[rows[slot]] += factor * y @ up[slot].double().t()
            size[rows[slot]] += bound @ up[slot].double().abs().t()
        result = program.read(out, n_rows)
        assert_near(result, expected, size)
        untouched = [row for row in range(n_rows) if row not in rows[0] + rows[1]]
        assert torch.equal(result[untouched], before[untouched])
        # Fewer lists than adapters: the rest have no rows.
        program.write(at, x)
        program.write(out, before)
        program.run(plain_step(n_rows, adapter_rows=rows[:1] if not rows[1] else rows), threads)
        assert torch.equal(program.read(out, n_rows), result)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_stays_in_its_row(kernels: Kernels, kind: str) -> None:
    n_out, n_in = shapes(kind)[-1]
    stored = stored_matrix(kind, n_out, n_in)
    x = rows_of(18, n_in)
    bad = {2: math.nan, 7: math.inf, 13: -math.inf, 17: -math.nan}
    clean = x.clone()
    for row, value in bad.items():
        x[row, row] = value
    good = [row for row in range(18) if row not in bad]

    def compute(isa: str, threads: int) -> Tensor:
        product = OneProduct(kernels, isa, stored, kind, n_in)
        result, without = product(x, threads), product(clean, threads)
        assert torch.equal(result[good], without[good])
        assert not result[list(bad)].isfinite().any() or kind not in QUANTISED
        assert result[[2, 17]].isnan().all()
        return result

    result = kernels.same_everywhere(compute)
    if kind in FLOATS:
        weights = dequantize(stored, kind, n_in)
        assert torch.equal(result[[7, 13]].isfinite(), torch.zeros(2, n_out, dtype=torch.bool))
        assert torch.equal(result[7], math.inf * weights[:, 7].sign())


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_denormals_and_huge_values(kernels: Kernels, kind: str) -> None:
    n_out, n_in = shapes(kind)[-1]
    stored = stored_matrix(kind, n_out, n_in)
    scales = torch.tensor([0.0, 1e-45, 1e-40, 1e-38, 9e-31, 2e-30, 1e-20, 1.0, 1e20, 1e30])
    x = rows_of(len(scales), n_in).clamp(-4, 4) * scales[:, None]
    x[7, ::3] = 1e-42

    def compute(isa: str, threads: int) -> Tensor:
        return OneProduct(kernels, isa, stored, kind, n_in)(x, threads)

    result = kernels.same_everywhere(compute)
    expected, size = expected_product(x, stored, kind)
    assert (result[0] == 0).all()
    # Sums of numbers near the least float32 lose what falls below it.
    assert_near(result, expected, size + n_in * 1e-38)


@pytest.mark.parametrize("kind", QUANTISED)
def test_sums_of_the_greatest_bytes_do_not_overflow(kernels: Kernels, kind: str) -> None:
    """Every weight at an end of its range, with every input at an end of its own."""
    scales = {
        "Q4_0": (0, 2), "Q5_0": (0, 2), "Q8_0": (0, 2), "Q4_1": (0, 4), "Q5_1": (0, 4), "Q6_K": (192, 210),
        "IQ4_NL": (0, 2), "IQ4_XS": (0, 8), "MXFP4": (0, 1), "I4_F16": (0, 3), "I4_BF16": (0, 3),
        "I8_F32": (0, 5), "NVFP4_F32": (0, 6),
    }  # fmt: skip
    first, end = scales.get(kind, (0, 16))
    x = torch.ones(6, 256)
    x[1::3] = -1
    x[2::3, ::2] = -1
    for code in (0x00, 0xFF, 0x80, 0x7F):
        stored = stored_matrix(kind, 20, 256)
        blocks = stored.view(-1, BLOCKS[kind].bytes)
        blocks[:, :first] = blocks[:, end:] = code

        def compute(isa: str, threads: int, stored: Tensor = stored) -> Tensor:
            return OneProduct(kernels, isa, stored, kind, 256)(x, threads)

        assert_near(kernels.same_everywhere(compute), *expected_product(x, stored, kind))


def test_scales_that_are_no_numbers(kernels: Kernels, isa: str) -> None:
    """A broken block makes NaN of its output, and of no other."""
    for kind in QUANTISED:
        if kind in ("MXFP4", "I4_BF16"):  # no scale of theirs is NaN as float16 is
            continue
        n_out, n_in = 20, 256
        stored = stored_matrix(kind, n_out, n_in)
        at = stored[5].view(-1)
        if kind.endswith("_F32"):
            at[:4] = torch.tensor([math.nan]).view(torch.uint8)
        else:
            offset = 208 if kind == "Q6_K" else 0
            at[offset : offset + 2] = torch.tensor([math.nan]).half().view(torch.uint8)
        x = rows_of(3, n_in)
        result = OneProduct(kernels, isa, stored, kind, n_in)(x)
        assert result[:, 5].isnan().all(), kind
        assert result[:, [*range(5), *range(6, n_out)]].isfinite().all(), kind
