"""Embeddings of n-grams in C++: the rows of the reference, wherever a step begins or ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from cpu_steps import Kernels, assert_near, plain_step, rows_of, stored_matrix
from torch import Tensor

from landrace.kernels.cpu import ngrams, recurrent
from landrace.kernels.cpu.step import StepInput
from landrace.kernels.ngrams import NGrams
from landrace.kernels.reference.blocks import dequantize
from landrace.kernels.reference.ngrams import gated_values, ngram_rows
from landrace.kernels.reference.short_conv import short_conv, spread_taps

EOS, LARGE = 2, (1 << 61) + 5
FORM = NGrams((3, LARGE, 7), (13, 17, 19, 23), EOS)
TOKENS = [torch.randint(0, 9, (n,), generator=torch.Generator().manual_seed(n)) for n in (23, 1, 40)]


def step_of(cuts: Sequence[tuple[int, int, int]]) -> StepInput:
    """Sequences from one position to another."""
    starts = [0]
    for _, first, end in cuts:
        starts.append(starts[-1] + end - first)
    return StepInput(
        token_ids=torch.cat([TOKENS[s][first:end] for s, first, end in cuts]),
        positions=torch.cat([torch.arange(first, end) for _, first, end in cuts]),
        starts=starts,
        groups=(),
        logit_rows=torch.empty(0, dtype=torch.long),
        states=torch.tensor([[s, s, 0, 0] for s, _, _ in cuts]),
    )


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
@pytest.mark.parametrize("threads", [1, 3])
def test_rows_of_hashed_tables(kernels: Kernels, isa: str, kind: str, threads: int) -> None:
    stored = stored_matrix(kind, 80, 32)
    values = dequantize(stored, kind, 32)
    program = kernels.program(isa)
    out = program.buffer(4 * 32)
    ngrams.ngrams(program, kernels.matrix(stored, kind, 32), FORM, out)
    state = recurrent.new_layer_state(kernels.extension, [(2,)], 3)
    state.parts[0].fill_(float("nan"))
    program.bind_states([state])
    expected = [values[ngram_rows(one, (0, len(one)), None, FORM)[0]].flatten(1) for one in TOKENS]
    done = [0, 0, 0]
    for cut in ((5, 1, 1), (1, 0, 1), (2, 0, 30), (15, 0, 8)):
        cuts = [(s, done[s], done[s] + n) for s, n in enumerate(cut) if n]
        step = step_of(cuts)
        program.run(step, threads)
        found = program.read(out, step.token_ids.numel()).split([end - first for _, first, end in cuts])
        for (s, first, end), rows in zip(cuts, found, strict=True):
            assert torch.equal(rows, expected[s][first:end])
            done[s] = end
    assert done == [23, 1, 40]


def test_guesses_that_were_right_come_before_the_next_tokens(kernels: Kernels, isa: str) -> None:
    stored = stored_matrix("F32", 80, 32)
    program = kernels.program(isa)
    out = program.buffer(4 * 32)
    ngrams.ngrams(program, kernels.matrix(stored, "F32", 32), FORM, out)
    state = recurrent.new_layer_state(kernels.extension, [(2 + 4,)], 2, 4)
    program.bind_states([state])
    ids = TOKENS[2]
    expected = dequantize(stored, "F32", 32)[ngram_rows(ids, (0, 40), None, FORM)[0]].flatten(1)
    # From, to, how many of those are right, and the state: read, left, right guesses before, guesses.
    for first, end, right, slots in (
        (0, 4, 3, [0, 0, 0, 3]),
        (3, 8, 5, [0, 1, 2, 3]),
        (5, 6, 6, [1, 1, 0, 0]),
        (6, 8, 8, [1, 1, 0, 2]),
        (8, 9, 9, [1, 1, 2, 1]),
        (9, 14, 14, [1, 1, 3, 4]),
        (14, 20, 20, [1, 1, 4, 0]),
    ):
        tokens = torch.cat((ids[first:right], (ids[right:end] + 1) % 9))
        step = replace(step_of([(2, first, end)]), token_ids=tokens, states=torch.tensor([slots]))
        program.run(step, 2)
        assert torch.equal(program.read(out, end - first)[: right - first], expected[first:right]), first


def test_gates_of_values(kernels: Kernels) -> None:
    keys, queries, values = rows_of(14, 3 * 37), rows_of(14, 3 * 37, 2), rows_of(14, 37, 3)
    keys[4] = 0

    def compute(isa: str, threads: int) -> Tensor:
        program = kernels.program(isa)
        at = [program.buffer(n) for n in (3 * 37, 3 * 37, 37, 3 * 37)]
        ngrams.gated_values(program, *at[:3], 3, at[3])
        program.add("add", x=at[3], out=at[0])
        for buffer, rows in zip(at, (keys, queries, values), strict=False):
            program.write(buffer, rows)
        program.run(plain_step(14), threads)
        return torch.cat((program.read(at[3], 14), program.read(at[0], 14)), 1)

    found, total = kernels.same_everywhere(compute).chunk(2, 1)
    expected = gated_values(keys, queries, values, 3)
    assert_near(found, expected.double(), expected.abs().double() + 1e-6, 1e-5)
    assert torch.equal(total, keys + found)


@pytest.mark.parametrize(("width", "dilation"), [(4, 3), (2, 5), (3, 1), (1, 4)])
def test_taps_that_are_apart(kernels: Kernels, isa: str, width: int, dilation: int) -> None:
    weight = torch.randn(37, width, generator=torch.Generator().manual_seed(0))
    x, n_before = rows_of(23, 37), (width - 1) * dilation
    taps = spread_taps(weight, dilation)
    assert taps.shape == (37, n_before + 1) and torch.equal(taps[:, ::dilation], weight)
    expected, _ = short_conv(x.double(), taps.double(), (0, 23), None)
    program = kernels.program(isa)
    at = program.buffer(37)
    recurrent.short_conv(program, [at], [kernels.vector(weight.flatten())], width, dilation)
    state = recurrent.new_layer_state(kernels.extension, [(n_before, 37)], 1)
    program.bind_states([state])
    found = []
    for first, end in ((0, 5), (5, 6), (6, 23)):
        program.write(at, x[first:end].contiguous())
        step = plain_step(end - first)
        step = replace(step, positions=torch.arange(first, end), states=torch.tensor([[0, 0, 0, 0]]))
        program.run(step, 2)
        found.append(program.read(at, end - first))
    bound, _ = short_conv(x.double().abs(), taps.double().abs(), (0, 23), None)
    assert_near(torch.cat(found), expected, bound + 1, 1e-6)


def test_refusals(kernels: Kernels) -> None:
    program = kernels.program(kernels.extension.instruction_sets()[0])
    table = kernels.matrix(stored_matrix("F32", 71, 32), "F32", 32)
    with pytest.raises(ValueError, match="larger than their matrix"):
        ngrams.ngrams(program, table, FORM, program.buffer(128))
    with pytest.raises(ValueError, match="no such n-grams"):
        ngrams.ngrams(program, table, NGrams((3,), (5,), 0), program.buffer(32))
    with pytest.raises(ValueError, match="no such n-grams"):
        ngrams.ngrams(program, table, NGrams((3, 5, 7), (5,), 0), program.buffer(32))
