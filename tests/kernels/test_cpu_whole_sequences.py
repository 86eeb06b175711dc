"""What encoders take of the C++ kernels: attention to whole sequences, LayerNorm, embeddings of positions and types,
and functions of single values. Near the reference, and the same bits in every batch."""

from __future__ import annotations

import math
import random

import pytest
import torch
from attention_cases import Case, check, serve
from cpu_steps import Kernels, assert_near, assert_same, plain_step, rows_of, stored_matrix
from cut_sequences import at_once
from torch import Tensor

from landrace.kernels.activation import Pointwise
from landrace.kernels.cpu.cache import Heads
from landrace.kernels.cpu.step import StepInput
from landrace.kernels.cpu.streams import activate
from landrace.kernels.mask import WHOLE
from landrace.kernels.reference.blocks import dequantize
from landrace.kernels.reference.dense import layer_norm, pointwise

POINTWISE: tuple[Pointwise, ...] = ("silu", "sigmoid", "gelu", "gelu_tanh", "relu", "tanh")
LENGTHS = (1, 15, 16, 17, 255, 256, 257, 530)


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("heads", [Heads(12, 12, 32), Heads(4, 2, 20)], ids=str)
def test_every_position_sees_all(kernels: Kernels, isa: str, heads: Heads, dtype: torch.dtype) -> None:
    case = Case(heads, LENGTHS, dtype, WHOLE)
    check(kernels, isa, 3, case, at_once(case))


def test_neighbours_do_not_matter(kernels: Kernels) -> None:
    """A sequence alone and in a crowd, whose order and threads cut tasks elsewhere."""
    case = Case(Heads(3, 3, 32), (9, 70, 33, 1, 260, 5), mask=WHOLE)
    inputs = case.inputs()
    whole = serve(kernels, "plain", 1, case, at_once(case)).out
    for isa in kernels.extension.instruction_sets():
        draw = random.Random(isa)
        for threads in (1, 2, 3):
            crowd = draw.sample(range(6), draw.randint(1, 6))
            result = serve(kernels, isa, threads, case, [[(s, 0, case.lengths[s]) for s in crowd]], inputs)
            for s in crowd:
                assert torch.equal(result.out[s], whole[s])


@pytest.mark.matrix
@pytest.mark.parametrize("width", [1, 15, 16, 33, 384])
def test_layer_norms(kernels: Kernels, isa: str, width: int) -> None:
    x, weight, bias = rows_of(21, width) + 3, rows_of(1, width, 2)[0], rows_of(1, width, 3)[0]
    program = kernels.program(isa)
    at, out = program.buffer(width), program.buffer(width)
    program.norm(at, kernels.vector(weight), 1e-5, out, bias=kernels.vector(bias))
    program.write(at, x)
    program.run(plain_step(21), 2)
    expected = layer_norm(x.double(), weight, bias, 1e-5).double()
    assert_near(program.read(out, 21), expected, expected.abs() + weight.abs() * 10, 2e-6)


@pytest.mark.parametrize("kind", POINTWISE)
def test_functions_of_a_value(kernels: Kernels, kind: Pointwise) -> None:
    special = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 100.0, -100.0, 1e30, -1e30, math.inf, -math.inf, math.nan])
    values = torch.cat((torch.linspace(-14, 14, 2981), special)).view(4, -1)
    width = values.shape[1]

    def compute(isa: str, threads: int) -> Tensor:
        program = kernels.program(isa)
        at = program.buffer(width)
        activate(program, at, kind, 1.0, 1.0)
        program.write(at, values)
        program.run(plain_step(4), threads)
        return program.read(at, 4)

    found = kernels.same_everywhere(compute).double()
    expected = pointwise(values.double(), kind)
    assert_same(found[-1, -1].isnan(), expected[-1, -1].isnan())
    finite = expected.isfinite()
    # GELU's own product of infinity and nothing is a question of definition: it has no value there.
    near = 4e-7 * (1 + expected.abs())
    assert ((found - expected).abs() <= near)[finite].all()


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
def test_embeddings_of_positions_and_types(kernels: Kernels, isa: str, kind: str) -> None:
    """Of two sequences; without types all tokens are of the first one."""
    tables = [stored_matrix(kind, n, 64, seed) for seed, n in enumerate((30, 9, 2))]
    rows = [dequantize(table, kind, 64) for table in tables]
    tokens, positions, types = (
        torch.tensor([3, 29, 0, 5, 5]),
        torch.tensor([0, 1, 2, 0, 1]),
        torch.tensor([0, 1, 1, 1, 0]),
    )
    program = kernels.program(isa)
    out = program.buffer(64)
    for table, of, add in zip(tables, ("tokens", "positions", "types"), (False, True, True), strict=True):
        program.embedding(kernels.matrix(table, kind, 64), 1.0, out, of=of, add=add)
    for own in (types, None):
        program.run(step(tokens, positions, own), 2)
        second = torch.zeros(5, dtype=torch.long) if own is None else own
        assert torch.equal(program.read(out, 5), rows[0][tokens] + rows[1][positions] + rows[2][second])
    with pytest.raises(IndexError, match="token type 2"):
        program.run(step(tokens, positions, torch.tensor([0, 1, 2, 0, 0])), 1)
    with pytest.raises(IndexError, match="position 9"):
        program.run(step(tokens, torch.tensor([7, 8, 9, 0, 1]), types), 1)
    with pytest.raises(ValueError, match="token_types"):
        program.run(step(tokens, positions, types[:4]), 1)


def step(tokens: Tensor, positions: Tensor, types: Tensor | None) -> StepInput:
    return StepInput(tokens, positions, (0, 3, 5), (), torch.empty(0, dtype=torch.long), token_types=types)
