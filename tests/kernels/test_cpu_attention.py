"""Rotation, cache and attention of the C++ kernels: near the reference, and the same bits however a sequence is cut."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from cpu_steps import Kernels, assert_near, assert_same
from torch import Tensor

from landrace.kernels.cpu.program import TILE, Heads, Rotary, StepInput, new_layer_cache
from landrace.kernels.layer_cache import GroupView, LayerCache
from landrace.kernels.mask import FULL, Sliding
from landrace.kernels.reference.attention import attention, plan_attention
from landrace.kernels.reference.dense import rms_norm
from landrace.kernels.reference.rotary import rotate

CPU = torch.device("cpu")
CACHES = (torch.float32, torch.float16, torch.bfloat16, torch.int8)
HEADS = [
    Heads(1, 1, 8), Heads(2, 1, 12), Heads(9, 3, 64), Heads(7, 1, 16), Heads(8, 1, 80), Heads(16, 1, 96),
    Heads(4, 2, 128), Heads(2, 2, 256), Heads(26, 2, 16), Heads(3, 3, 17), Heads(1, 1, 1), Heads(12, 1, 5),
]  # fmt: skip
EPS = 1e-3

Step = list[tuple[int, int, int]]
"""(sequence, first position, end) of each sequence in a step."""


@dataclass(frozen=True)
class Case:
    """Sequences, where their keys and values go, and what is done with them."""

    heads: Heads
    lengths: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    window: int | None = None
    rotary_half: int | None = None
    """None: half the channels of a head."""
    norm: str = "none"
    scale: float = 0.3
    spread: float = 1.0
    """Standard deviation of the inputs."""

    def inputs(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """By sequence: q [length, n_heads, head_dim], and k and v [length, n_kv_heads, head_dim]."""
        generator = torch.Generator().manual_seed(len(self.lengths))
        shapes = (self.heads.n_heads, self.heads.n_kv_heads, self.heads.n_kv_heads)
        q, k, v = (
            [torch.randn(n, heads, self.heads.head_dim, generator=generator) * self.spread for n in self.lengths]
            for heads in shapes
        )
        return q, k, v

    def slots(self) -> tuple[list[Tensor], int]:
        """Shuffled blocks of sixteen for each sequence, among others that nobody has; and how many slots there are."""
        n_tiles = [-(-n // TILE) for n in self.lengths]
        tiles = torch.randperm(sum(n_tiles) + 5, generator=torch.Generator().manual_seed(9)).split([*n_tiles, 5])
        own = [
            (t[:, None] * TILE + torch.arange(TILE)).flatten()[:n] for t, n in zip(tiles, self.lengths, strict=False)
        ]
        return own, (sum(n_tiles) + 5) * TILE

    @property
    def half(self) -> int:
        return self.heads.head_dim // 2 if self.rotary_half is None else self.rotary_half

    def angles(self) -> tuple[Tensor, Tensor]:
        angles = torch.rand(max(self.lengths), self.half, generator=torch.Generator().manual_seed(4)) * 6
        return angles.cos(), angles.sin()

    def norm_weights(self) -> tuple[Tensor, Tensor]:
        weights = 1 + 0.3 * torch.randn(2, self.heads.head_dim, generator=torch.Generator().manual_seed(6))
        return weights[0], weights[1]

    def turned(self, x: Tensor, weight: Tensor) -> Tensor:
        """A sequence's q or k after norm and rotation, by the reference kernels in float64."""
        x = x.double()
        if self.norm == "before_rope":
            x = rms_norm(x.float(), weight, EPS).double()
        if self.half:
            cos, sin = self.angles()
            x = rotate(x, cos[: len(x)].double(), sin[: len(x)].double())
        return rms_norm(x.float(), weight, EPS).double() if self.norm == "after_rope" else x


def poisoned_cache(heads: Heads, n_slots: int, dtype: torch.dtype) -> LayerCache:
    cache = new_layer_cache(heads, n_slots, dtype)
    for tensor in (cache.keys, cache.values, cache.key_scales, cache.value_scales):
        if tensor is not None:
            tensor.fill_(99 if tensor.dtype == torch.int8 else math.nan)
    return cache


def flat(cache: LayerCache, heads: Heads) -> tuple[Tensor, Tensor]:
    """Keys and values as [n_slots, n_kv_heads, head_dim] float64."""
    keys = cache.keys.double().permute(0, 3, 1, 2).reshape(-1, heads.n_kv_heads, heads.head_dim)
    values = cache.values.double().transpose(1, 2).flatten(0, 1)[:, :, : heads.head_dim]
    if cache.key_scales is None or cache.value_scales is None:
        return keys, values
    scales = (
        x.double().transpose(1, 2).reshape(-1, heads.n_kv_heads, 1) for x in (cache.key_scales, cache.value_scales)
    )
    return keys * next(scales), values * next(scales)


@dataclass(frozen=True)
class Result:
    out: list[Tensor]
    """By sequence: [length, n_heads, head_dim]; NaN where nothing was computed."""
    q: list[Tensor]
    """The same of the turned queries."""
    cache: LayerCache


def serve(
    kernels: Kernels,
    isa: str,
    threads: int,
    case: Case,
    schedule: list[Step],
    inputs: tuple[list[Tensor], list[Tensor], list[Tensor]] | None = None,
) -> Result:
    """Computes all steps with NaN in every slot and row that nobody has written."""
    heads = case.heads
    q, k, v = inputs or case.inputs()
    slots, n_slots = case.slots()
    cos, sin = case.angles()
    program = kernels.program(isa)
    sizes = (heads.n_heads, heads.n_kv_heads, heads.n_kv_heads, heads.n_heads)
    buffers = [program.buffer(n * heads.head_dim) for n in sizes]
    q_at, k_at, v_at, out_at = buffers
    q_norm, k_norm = (kernels.vector(weight) for weight in case.norm_weights())
    program.rope(
        0, heads, q_at, k_at, v_at, rotary=0 if case.half else None, rotary_half=case.half, scale=case.scale,
        norm=case.norm, q_norm=q_norm, k_norm=k_norm, eps=EPS,
    )  # fmt: skip
    program.attention(0, heads, q_at, out_at, window=case.window)
    cache = poisoned_cache(heads, n_slots, case.dtype)
    program.bind_cache([cache])
    out = [torch.full(x.shape, math.nan) for x in q]
    turned = [torch.full(x.shape, math.nan) for x in q]
    most = max(sum(end - first for _, first, end in step) for step in schedule) + 9
    for step in schedule:
        starts = [0]
        for _, first, end in step:
            starts.append(starts[-1] + end - first)
        n_rows = starts[-1]
        for buffer, heads_of in zip(buffers, sizes, strict=True):
            program.write(buffer, torch.full((most, heads_of * heads.head_dim), math.nan))
        for buffer, whole in ((q_at, q), (k_at, k), (v_at, v)):
            program.write(buffer, torch.cat([whole[s][first:end].flatten(1) for s, first, end in step]))
        positions = torch.cat([torch.arange(first, end) for _, first, end in step])
        # What lies before the window has no slots any more.
        firsts = [max(0, first + 1 - case.window) // 16 * 16 if case.window else 0 for _, first, _ in step]
        program.run(
            StepInput(
                token_ids=torch.zeros(n_rows, dtype=torch.long),
                positions=positions,
                starts=starts,
                groups=[
                    GroupView(
                        torch.cat([slots[s][first:end] for s, first, end in step]),
                        [slots[s][oldest : max(end, 1)] for (s, _, end), oldest in zip(step, firsts, strict=True)],
                        firsts,
                    )
                ],
                logit_rows=torch.empty(0, dtype=torch.long),
                rotary=[Rotary(cos, sin, positions)] if case.half else [],
            ),
            threads,
        )
        rows, q_rows = (program.read(buffer, most).view(most, heads.n_heads, -1) for buffer in (out_at, q_at))
        assert rows[n_rows:].isnan().all()
        for (s, first, end), start in zip(step, starts, strict=False):
            out[s][first:end] = rows[start : start + end - first]
            turned[s][first:end] = q_rows[start : start + end - first]
    return Result(out, turned, cache)


def at_once(case: Case) -> list[Step]:
    return [[(s, 0, n) for s, n in enumerate(case.lengths)]]


def one_by_one(case: Case, prefill: int) -> list[Step]:
    """All sequences side by side: `prefill` tokens, then one at a time."""
    steps = [[(s, 0, min(prefill, n)) for s, n in enumerate(case.lengths)]]
    for position in range(prefill, max(case.lengths)):
        steps.append([(s, position, position + 1) for s, n in enumerate(case.lengths) if position < n])
    return steps


def at_random(case: Case, seed: int, most: int) -> list[Step]:
    """Steps of some sequences in any order, cut anywhere; some have no rows in a step."""
    draw = random.Random(seed)
    done = [0] * len(case.lengths)
    steps: list[Step] = []
    while any(at < n for at, n in zip(done, case.lengths, strict=True)):
        step: Step = []
        for s in draw.sample(range(len(done)), draw.randint(1, len(done))):
            end = min(case.lengths[s], done[s] + draw.choice((0, 1, 1, 2, 5, most)))
            step.append((s, done[s], end))
            done[s] = end
        if any(first < end for _, first, end in step):
            steps.append(step)
    return steps


def check(kernels: Kernels, isa: str, threads: int, case: Case, schedule: list[Step]) -> Result:
    """Queries, cache and outputs against the reference kernels."""
    result = serve(kernels, isa, threads, case, schedule)
    q, k, v = case.inputs()
    slots, _ = case.slots()
    keys, values = flat(result.cache, case.heads)
    q_norm, k_norm = case.norm_weights()
    for s in range(len(q)):
        # Rounding in the cache: half a unit of the last place, and for int8 half of 1/127 of the greatest.
        for ours, theirs in ((keys[slots[s]], case.turned(k[s], k_norm)), (values[slots[s]], v[s].double())):
            near = 2e-6 * case.spread * math.sqrt(case.heads.head_dim) + 1e-6 * theirs.abs()
            greatest = theirs.abs().amax(-1, keepdim=True) + near
            rounding = {
                torch.float32: 0,
                torch.float16: theirs.abs() / 2048 + 2**-25,
                torch.bfloat16: theirs.abs() / 256,
                torch.int8: greatest / 253,
            }[case.dtype]
            assert_near(ours, theirs, rounding + near, 1.0)
        turned = case.scale * case.turned(q[s], q_norm)
        assert_near(result.q[s], turned, 1e-6 * turned.abs() + 2e-6 * case.spread, 1.0)
    starts = [sum(case.lengths[:s]) for s in range(len(q) + 1)]
    plan = plan_attention(starts, slots, CPU)
    expected = attention(
        torch.cat(result.q).double(),
        keys,
        values,
        plan,
        scale=1.0,
        mask=FULL if case.window is None else Sliding(case.window),
    )
    assert_near(torch.cat(result.out), expected, 2e-5 * max(1.0, case.spread**2) * case.spread, 1.0)
    return result


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("heads", HEADS, ids=lambda h: f"{h.n_heads}-{h.n_kv_heads}-{h.head_dim}")
def test_shapes_of_heads(kernels: Kernels, isa: str, heads: Heads, dtype: torch.dtype) -> None:
    case = Case(heads, (1, 16, 23, 40), dtype)
    check(kernels, isa, 1, case, at_once(case))
    check(kernels, isa, 2, case, at_random(case, seed=heads.head_dim, most=17))


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("window", [None, 1, 5, 100, 256, 300])
def test_long_contexts_and_windows(kernels: Kernels, isa: str, window: int | None, dtype: torch.dtype) -> None:
    """Over the borders of the chunks of 256 keys."""
    case = Case(Heads(4, 2, 16), (255, 256, 257, 600), dtype, window)
    check(kernels, isa, 2, case, at_once(case))
    check(kernels, isa, 3, case, one_by_one(case, prefill=595))


@pytest.mark.parametrize("norm", ["none", "before_rope", "after_rope"])
@pytest.mark.parametrize(("head_dim", "half"), [(64, 32), (64, 16), (64, 0), (12, 6), (12, 2), (80, 40), (34, 17)])
def test_rotations_and_head_norms(kernels: Kernels, isa: str, head_dim: int, half: int, norm: str) -> None:
    case = Case(Heads(4, 2, head_dim), (1, 20, 9), rotary_half=half, norm=norm, scale=head_dim**-0.5)
    for dtype in CACHES:
        check(kernels, isa, 1, replace(case, dtype=dtype), at_once(case))


@pytest.mark.parametrize("head_dim", [16, 20])
def test_how_the_cache_rounds(kernels: Kernels, isa: str, head_dim: int) -> None:
    """float16 and bfloat16 to nearest, ties to even; int8 by the scale of each token and head; float32 as it is."""
    exact = Case(Heads(2, 2, head_dim), (37, 3), norm="before_rope")
    slots = torch.cat(exact.slots()[0])
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


BITS = [
    Case(Heads(4, 2, 16), (1, 40, 17, 33)),
    Case(Heads(7, 1, 12), (30, 2, 41), norm="before_rope", window=6),
    Case(Heads(16, 1, 8), (19, 20, 21), norm="after_rope", rotary_half=2),
    Case(Heads(6, 2, 80), (35, 16), window=16),
    Case(Heads(2, 1, 16), (258, 3, 530), window=300),
    Case(Heads(3, 1, 16), (513, 257)),
]


@pytest.mark.parametrize("dtype", CACHES)
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


@pytest.mark.parametrize("dtype", CACHES)
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


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_rows_feel_only_what_they_see(kernels: Kernels, isa: str, which: str, value: float, dtype: torch.dtype) -> None:
    """Neither a later row of the same step nor one that has left the window, even when that is no number."""
    case = Case(Heads(4, 2, 12), (300,), dtype, window=8)
    clean = serve(kernels, isa, 1, case, at_once(case)).out[0]
    for position in (19, 254, 257):
        inputs = spoiled(case, which, value, 0, position)
        for schedule in (at_once(case), at_random(case, position, most=40)):
            result = serve(kernels, isa, 1, case, schedule, inputs).out[0]
            assert torch.equal(result[:position], clean[:position])
            assert torch.equal(result[position + 8 :], clean[position + 8 :])


@pytest.mark.parametrize("dtype", CACHES)
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
    plan = plan_attention([0, 20, 27], case.slots()[0], CPU)
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
