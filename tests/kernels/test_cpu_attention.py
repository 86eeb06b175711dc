"""Cache and attention of the C++ kernels: near the reference, and the same bits however a sequence is cut."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from attention_cases import CACHES, CPU, HEAD_CACHES, Case, check, flat, int4_step, serve
from cpu_steps import Kernels, assert_near, assert_same
from cut_sequences import at_once, at_random, one_by_one, slots_of
from torch import Tensor

from landrace.kernels.cpu.cache import Heads
from landrace.kernels.head_form import QkNorm, Temperature
from landrace.kernels.layer_cache import INT4
from landrace.kernels.mask import FULL, Chunked, Mask, Sliding
from landrace.kernels.reference.attention import attention, plan_attention

HEADS = [
    Heads(1, 1, 8), Heads(2, 1, 12), Heads(9, 3, 64), Heads(7, 1, 16), Heads(8, 1, 80), Heads(16, 1, 96),
    Heads(4, 2, 128), Heads(2, 2, 256), Heads(26, 2, 16), Heads(3, 3, 17), Heads(1, 1, 1), Heads(12, 1, 5),
]  # fmt: skip


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", HEAD_CACHES)
@pytest.mark.parametrize("heads", HEADS, ids=lambda h: f"{h.n_heads}-{h.n_kv_heads}-{h.head_dim}")
def test_shapes_of_heads(kernels: Kernels, isa: str, heads: Heads, dtype: torch.dtype) -> None:
    case = Case(heads, (1, 16, 23, 40), dtype)
    check(kernels, isa, 1, case, at_once(case))
    check(kernels, isa, 2, case, at_random(case, seed=heads.head_dim, most=17))


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", HEAD_CACHES)
@pytest.mark.parametrize("mask", [FULL, *map(Sliding, (1, 5, 100, 256, 300)), *map(Chunked, (1, 7, 256, 300))], ids=str)
def test_long_contexts_and_masks(kernels: Kernels, isa: str, mask: Mask, dtype: torch.dtype) -> None:
    """Over the borders of the kernels' chunks of 256 keys."""
    case = Case(Heads(4, 2, 16), (255, 256, 257, 600), dtype, mask)
    check(kernels, isa, 2, case, at_once(case))
    check(kernels, isa, 3, case, one_by_one(case, prefill=595))


@pytest.mark.parametrize("head_dim", [16, 20])
def test_how_the_cache_rounds(kernels: Kernels, isa: str, head_dim: int) -> None:
    """float16 and bfloat16 to nearest, ties to even; int8 by the scale of each token and head; float32 as it is."""
    exact = Case(Heads(2, 2, head_dim), (37, 3), norm=QkNorm("before_rope"))
    slots = torch.cat(slots_of(exact.lengths)[0])
    full, half, brain, byte = (
        serve(kernels, isa, 1, replace(exact, dtype=dtype), at_once(exact)).cache for dtype in CACHES
    )  # fmt: skip
    keys, values = (x[slots].float() for x in flat(full, exact.heads))
    assert torch.equal(values, torch.cat(exact.inputs()[2]))
    for ours, theirs in zip(flat(half, exact.heads), (keys, values), strict=True):
        assert torch.equal(ours[slots], theirs.half().double())
    for ours, theirs in zip(flat(brain, exact.heads), (keys, values), strict=True):
        assert torch.equal(ours[slots], theirs.bfloat16().double())
    for ours, theirs in zip(flat(byte, exact.heads), (keys, values), strict=True):
        greatest = theirs.abs().amax(-1, keepdim=True)
        assert torch.equal(ours[slots], (theirs * (127 / greatest)).round().double() * (greatest / 127).double())


@pytest.mark.parametrize("head_dim", [5, 16, 32, 40, 64])
def test_how_the_cache_rounds_to_four_bits(kernels: Kernels, isa: str, head_dim: int) -> None:
    """A scale and a minimum in float16 for every 32 channels; the nearest of sixteen codes; none is left out."""
    exact = Case(Heads(2, 2, head_dim), (37, 3), norm=QkNorm("before_rope"))
    slots = torch.cat(slots_of(exact.lengths)[0])
    full, four = (
        serve(kernels, isa, 1, replace(exact, dtype=dtype), at_once(exact)).cache for dtype in (torch.float32, INT4)
    )
    codes = []
    for ours, theirs in zip(flat(four, exact.heads), flat(full, exact.heads), strict=True):
        step = int4_step(theirs[slots])
        least = torch.cat([g.amin(-1, keepdim=True).expand_as(g) for g in theirs[slots].split(32, -1)], -1)
        assert ((ours - theirs)[slots].abs() <= 0.5 * step + theirs[slots].abs().amax() / 1500).all()
        codes.append(((ours[slots] - least) / step).round()[step > 0])
    assert set(torch.cat(codes).tolist()) == set(range(16))


BITS = [
    Case(Heads(4, 2, 16), (1, 40, 17, 33)),
    Case(Heads(7, 1, 12), (30, 2, 41), norm=QkNorm("before_rope"), mask=Sliding(6)),
    Case(Heads(16, 1, 8), (19, 20, 21), norm=QkNorm("after_rope"), rotary_half=2),
    Case(Heads(6, 2, 80), (35, 16), mask=Sliding(16)),
    Case(Heads(2, 1, 16), (258, 3, 530), mask=Sliding(300)),
    Case(Heads(3, 1, 16), (513, 257)),
    Case(Heads(4, 2, 16), (40, 17, 33), mask=Chunked(7), sinks=True),
    Case(Heads(6, 3, 12), (530, 270), mask=Chunked(300), alibi=True),
    Case(Heads(4, 2, 16), (300, 33), mask=Sliding(20), sinks=True, alibi=True),
    Case(Heads(5, 1, 16), (40, 17), norm=QkNorm("before_rope", over="all_heads"), temperature=Temperature(0.3, 4)),
    Case(Heads(4, 4, 12), (33, 20), norm=QkNorm("after_rope", kind="l2")),
]


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", HEAD_CACHES)
@pytest.mark.parametrize("case", range(len(BITS)))
def test_however_a_sequence_is_cut(kernels: Kernels, case: int, dtype: torch.dtype) -> None:
    """At once, token by token, in random steps among others: the same to the bit, on any threads and instructions."""
    facts = replace(BITS[case], dtype=dtype)
    short = max(facts.lengths) < 100
    schedules = [
        [[(s, 0, n)] for s, n in enumerate(facts.lengths)],
        one_by_one(facts, prefill=1 if short else max(facts.lengths) - 4),
        *(at_random(facts, seed, most=20 if short else 150) for seed in range(4)),
    ]

    def compute(isa: str, threads: int) -> Tensor:
        first = serve(kernels, isa, threads, facts, at_once(facts))
        whole = torch.cat(first.out)
        assert whole.isfinite().all()
        for schedule in schedules[:: 1 if isa != "plain" or short else 3]:
            other = serve(kernels, isa, threads, facts, schedule)
            assert torch.equal(torch.cat(other.out), whole)
            assert_same(torch.cat(other.q), torch.cat(first.q))
            for one, two in zip(vars(other.cache).values(), vars(first.cache).values(), strict=True):
                if one is not None:
                    assert_same(one, two)
        return whole

    kernels.same_everywhere(compute)


def test_neighbours_do_not_matter(kernels: Kernels) -> None:
    """A sequence alone and in a crowd."""
    case = Case(Heads(6, 2, 24), (9, 70, 33, 1, 260, 5))
    inputs = case.inputs()
    whole = serve(kernels, "plain", 1, case, at_once(case)).out
    for isa in kernels.extension.instruction_sets():
        draw = random.Random(isa)
        for threads in (1, 2, 3):
            crowd = draw.sample(range(6), draw.randint(1, 6))
            result = serve(kernels, isa, threads, case, [[(s, 0, case.lengths[s]) for s in crowd]], inputs)
            for s in crowd:
                assert torch.equal(result.out[s], whole[s])


def spoiled(case: Case, which: str, value: float, sequence: int, position: int) -> Any:
    inputs = case.inputs()
    inputs["qkv".index(which)][sequence][position, 0, 1] = value
    return inputs


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", HEAD_CACHES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_what_is_no_number_stays_in_its_sequence(
    kernels: Kernels, which: str, value: float, dtype: torch.dtype
) -> None:
    """It spoils the rows that see it and no other sequence, and never becomes a number."""
    case = Case(Heads(4, 2, 16), (20, 35, 12), dtype)
    inputs = spoiled(case, which, value, 1, 19)

    def compute(isa: str, threads: int) -> Tensor:
        clean = serve(kernels, isa, threads, case, at_once(case)).out
        steps = [[(0, 0, 20), (1, 0, 19), (2, 0, 12)], [(1, 19, 20)], [(1, 20, 35)]]
        result = serve(kernels, isa, threads, case, steps, inputs).out
        assert torch.equal(result[0], clean[0])
        assert torch.equal(result[2], clean[2])
        assert torch.equal(result[1][:19], clean[1][:19])
        seeing = result[1][19:20] if which == "q" else result[1][19:]
        # The first of four heads, and with keys and values the second, which shares them.
        heads = slice(0, 1) if which == "q" else slice(0, 2)
        if which != "k" or math.isnan(value):  # a key of infinities may score -inf: then its weight is rightly 0
            assert not seeing[:, heads, 1 if which == "v" else 0].isfinite().any()
        assert torch.equal(result[1][:, 2:], clean[1][:, 2:])
        return torch.cat(result)

    kernels.same_everywhere(compute)


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", HEAD_CACHES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_rows_feel_only_what_they_see(kernels: Kernels, isa: str, which: str, value: float, dtype: torch.dtype) -> None:
    """Neither a later row of the same step nor one that has left the window, even when that is no number."""
    case = Case(Heads(4, 2, 12), (300,), dtype, mask=Sliding(8))
    clean = serve(kernels, isa, 1, case, at_once(case)).out[0]
    for position in (19, 254, 257):
        inputs = spoiled(case, which, value, 0, position)
        for schedule in (at_once(case), at_random(case, position, most=40)):
            result = serve(kernels, isa, 1, case, schedule, inputs).out[0]
            assert torch.equal(result[:position], clean[:position])
            assert torch.equal(result[position + 8 :], clean[position + 8 :])


@pytest.mark.parametrize("dtype", HEAD_CACHES)
@pytest.mark.parametrize("spread", [0.0, 1e-42, 1e-31, 1e-18, 50.0])
def test_extreme_sizes(kernels: Kernels, dtype: torch.dtype, spread: float) -> None:
    """Scores so large that one key takes all the weight, and values so small that they are denormal."""
    case = Case(Heads(4, 2, 16), (20, 7), dtype, spread=spread)

    def compute(isa: str, threads: int) -> Tensor:
        return torch.cat(serve(kernels, isa, threads, case, at_once(case)).out)

    result = kernels.same_everywhere(compute)
    assert result.isfinite().all()
    served = serve(kernels, "plain", 1, case, at_once(case))
    keys, values = flat(served.cache, case.heads)
    plan = plan_attention([0, 20, 27], slots_of(case.lengths)[0], CPU)
    expected = attention(torch.cat(served.q).double(), keys, values, plan, scale=1.0, mask=FULL)
    assert_near(result, expected, 2e-4 * max(spread, 1e-38), 1.0)


def test_an_empty_step(kernels: Kernels, isa: str) -> None:
    case = Case(Heads(2, 1, 16), (5, 3))
    for step in ([(0, 0, 0)], [(0, 0, 0), (1, 0, 0)], [(1, 0, 0), (0, 0, 5)], [(0, 0, 5), (1, 0, 0)]):
        for threads in (1, 3):
            out = serve(kernels, isa, threads, case, [step]).out
            for s, first, end in step:
                assert out[s][first:end].isfinite().all()
                assert out[s][end:].isnan().all()
