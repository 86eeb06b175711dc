"""Residual streams in C++: against the reference in float64, and the same bits in every instruction set."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cpu_steps import Kernels, assert_near, plain_step, rows_of
from torch import Tensor

from landrace.kernels.cpu import streams
from landrace.kernels.reference.dense import rms_norm
from landrace.kernels.reference.streams import attended_blocks, collapsed, spread, weights_of
from landrace.kernels.streams import HyperConnections

ROWS = 14
FORMS = {
    "mixing": HyperConnections(4, 1e-2, iterations=20),
    "mixing once": HyperConnections(3, 1e-2, iterations=1),
    "one that mixes": HyperConnections(1, 1e-2, iterations=2),
    "alone": HyperConnections(8, 1e-3, 1.7, 0.2),
}


@pytest.mark.parametrize("width", [37, 64])
@pytest.mark.parametrize("name", FORMS)
def test_streams_around_a_branch(kernels: Kernels, name: str, width: int) -> None:
    """Their weights, the branch's row, and its result back to them."""
    form, n = FORMS[name], FORMS[name].count
    parts = 3 if form.mixes else 2
    numbers = 2 * n + (n * n if form.mixes else 0)
    draw = torch.Generator().manual_seed(n)
    base, scale = torch.randn(numbers, generator=draw), torch.randn(parts, generator=draw)
    x, logits, branch = rows_of(ROWS, n * width), rows_of(ROWS, numbers, 2), rows_of(ROWS, width, 3)
    norm_eps = 1e-3

    def compute(isa: str, threads: int) -> Tensor:
        program = kernels.program(isa)
        at, weights, row, result = (program.buffer(size) for size in (n * width, numbers, width, width))
        streams.stream_weights(
            program, at, weights, base=kernels.vector(base), scale=kernels.vector(scale), form=form, norm_eps=norm_eps
        )
        streams.collapse(program, at, n, row, weights=weights)
        streams.spread(program, at, result, weights, n, n, form.mixes)
        for buffer, values in ((at, x), (weights, logits), (result, branch)):
            program.write(buffer, values)
        program.run(plain_step(ROWS), threads)
        return torch.cat([program.read(buffer, ROWS) for buffer in (weights, row, at)], 1)

    found_weights, found_row, found = kernels.same_everywhere(compute).split([numbers, width, n * width], 1)
    size = (x.double().square().mean(-1, keepdim=True) + norm_eps).sqrt()
    expected = weights_of(logits.double() / size, base.double(), scale.double(), form)
    assert_near(found_weights, expected, expected.abs() + 1e-3, 1e-4)
    exact = found_weights.double()
    assert_near(found_row, collapsed(x.double(), n, exact), collapsed(x.double().abs(), n, exact), 1e-6)
    after = spread(x.double(), branch.double(), exact, n, n, form.mixes)
    bound = spread(x.double().abs(), branch.double().abs(), exact, n, n, form.mixes)
    assert_near(found, after, bound, 1e-6)


@pytest.mark.parametrize("count", [2, 4])
def test_gated_streams_and_means(kernels: Kernels, count: int) -> None:
    width = 37
    x, gates = rows_of(ROWS, count * width), rows_of(ROWS, count * width, 2)
    weight = torch.randn(count * width, generator=torch.Generator().manual_seed(1))

    def compute(isa: str, threads: int) -> Tensor:
        program = kernels.program(isa)
        at, gates_at, normed, wide = (program.buffer(count * width) for _ in range(4))
        gated, mean = program.buffer(width), program.buffer(width)
        streams.norm_each(program, at, kernels.vector(weight), 1e-3, count, normed)
        streams.collapse(program, normed, count, gated, gates=gates_at)
        streams.collapse(program, at, count, mean)
        streams.widen(program, mean, wide)
        program.write(at, x)
        program.write(gates_at, gates)
        program.run(plain_step(ROWS), threads)
        return torch.cat([program.read(buffer, ROWS) for buffer in (normed, gated, mean, wide)], 1)

    whole = kernels.same_everywhere(compute)
    normed, gated, mean, wide = whole.split([count * width, width, width, count * width], 1)
    expected = rms_norm(x.view(ROWS, count, width), None, 1e-3).flatten(1) * weight
    assert_near(normed, expected.double(), expected.abs().double() + 1e-6, 1e-5)
    weighed = normed.double() * gates.double().sigmoid()
    assert_near(gated, collapsed(weighed, count), collapsed(weighed.abs(), count), 1e-6)
    assert_near(mean, collapsed(x.double(), count), collapsed(x.double().abs(), count), 1e-6)
    assert torch.equal(wide, mean.repeat(1, count))


@pytest.mark.parametrize("kind", ["silu", "sigmoid"])
def test_activations_with_factors(kernels: Kernels, kind: str) -> None:
    x = rows_of(ROWS, 37)

    def compute(isa: str, threads: int) -> Tensor:
        program = kernels.program(isa)
        at = program.buffer(37)
        streams.activate(program, at, kind, 0.25, 2.0)  # type: ignore[arg-type]
        program.write(at, x)
        program.run(plain_step(ROWS), threads)
        return program.read(at, ROWS)

    z = x.double() * 0.25
    expected = 2.0 * (F.silu(z) if kind == "silu" else z.sigmoid())
    assert_near(kernels.same_everywhere(compute), expected, expected.abs() + 1e-30, 2e-6)


@pytest.mark.parametrize("width", [37, 64])
@pytest.mark.parametrize("count", [1, 2, 19])
def test_attention_to_blocks(kernels: Kernels, count: int, width: int) -> None:
    sums = [rows_of(ROWS, width, seed) * (1 + seed) for seed in range(count)]
    sums[0][3, 5] = float("nan")
    draw = torch.Generator().manual_seed(1)
    scores, norm = torch.randn(width, generator=draw), torch.randn(width, generator=draw)

    def compute(isa: str, threads: int) -> Tensor:
        program = kernels.program(isa)
        at, out, without = [program.buffer(width) for _ in sums], program.buffer(width), program.buffer(width)
        streams.attend_blocks(program, at, kernels.vector(scores), kernels.vector(norm), 1e-3, out)
        streams.attend_blocks(program, at, kernels.vector(scores), None, 1e-3, without)
        for buffer, values in zip(at, sums, strict=True):
            program.write(buffer, values)
        program.run(plain_step(ROWS), threads)
        return torch.cat([program.read(buffer, ROWS) for buffer in (out, without)])

    found = kernels.same_everywhere(compute)
    assert found.isnan().any(1).nonzero().flatten().tolist() == [3, ROWS + 3]
    exact = [one.double() for one in sums]
    expected = torch.cat([attended_blocks(exact, scores.double(), one, 1e-3) for one in (norm.double(), None)])
    others = ~expected.isnan().any(1)
    greatest = torch.stack(exact).abs().amax(0).repeat(2, 1)
    assert_near(found[others], expected[others], greatest[others], 2e-5)
    if count == 1:
        assert torch.equal(found[:3], sums[0][:3])


def test_what_is_no_number_stays_in_its_row(kernels: Kernels) -> None:
    form = FORMS["mixing"]
    x, logits = rows_of(ROWS, 4 * 37), rows_of(ROWS, 24, 2)
    x[3, 5], logits[7, 9] = float("nan"), float("inf")

    def compute(isa: str, threads: int) -> Tensor:
        program = kernels.program(isa)
        at, weights, row = program.buffer(4 * 37), program.buffer(24), program.buffer(37)
        streams.stream_weights(
            program, at, weights, base=kernels.vector(torch.zeros(24)), scale=kernels.vector(torch.ones(3)), form=form,
            norm_eps=1e-6,
        )  # fmt: skip
        streams.collapse(program, at, 4, row, weights=weights)
        streams.spread(program, at, row, weights, 4, 4, True)
        program.write(at, x)
        program.write(weights, logits)
        program.run(plain_step(ROWS), threads)
        return program.read(at, ROWS)

    found = kernels.same_everywhere(compute).isnan().any(1)
    assert found.nonzero().flatten().tolist() == [3, 7]


def test_refusals(kernels: Kernels) -> None:
    program = kernels.program(kernels.extension.instruction_sets()[0])
    wide, narrow = program.buffer(12), program.buffer(5)
    with pytest.raises(ValueError, match="whole streams"):
        streams.collapse(program, wide, 5, narrow)
    with pytest.raises(ValueError, match="1 to 8 streams"):
        streams.collapse(program, wide, 12, program.buffer(1))
    with pytest.raises(ValueError, match="weight for each stream"):
        streams.collapse(program, wide, 6, program.buffer(2), weights=narrow)
    with pytest.raises(ValueError, match="weight for each stream"):
        streams.spread(program, wide, program.buffer(4), narrow, 3, 3, False)
    with pytest.raises(ValueError, match="part of themselves"):
        streams.attend_blocks(program, [wide], kernels.vector(torch.ones(12)), None, 0.0, wide)
    with pytest.raises(ValueError, match="no block"):
        streams.attend_blocks(program, [], kernels.vector(torch.ones(12)), None, 0.0, wide)
    with pytest.raises(ValueError, match="value by value"):
        streams.attend_blocks(program, [wide], kernels.vector(torch.ones(5)), None, 0.0, program.buffer(12))
    with pytest.raises(ValueError, match="whole groups"):
        streams.norm_each(program, wide, kernels.vector(torch.ones(12)), 0.0, 5, program.buffer(12))
