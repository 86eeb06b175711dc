"""Latent attention in C++: near the reference, the same bits however a sequence is cut, and products by head."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from attention_cases import CACHES, CPU
from choices import check_refusals
from cpu_steps import (
    Kernels,
    assert_near,
    assert_same,
    expected_product,
    plain_step,
    poisoned_caches,
    rows_of,
    stored_matrix,
)
from cut_sequences import TILE, Step, angles, at_once, at_random, run_steps, slots_of
from torch import Tensor

from landrace.kernels.cpu.cache import Latents, new_layer_cache
from landrace.kernels.cpu.latent import attend_latents, head_product, keep_latents
from landrace.kernels.layer_cache import LayerCache
from landrace.kernels.mask import FULL, Chunked, Mask, Sliding
from landrace.kernels.reference.attention import attention, plan_attention
from landrace.kernels.reference.dense import rms_norm
from landrace.kernels.reference.rotary import rotate

EPS, SCALE, NOPE = 1e-3, 0.2, 3


@dataclass(frozen=True)
class Case:
    shape: Latents
    lengths: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    mask: Mask = FULL

    @property
    def half(self) -> int:
        return self.shape.rope_dim // 2

    def inputs(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """By sequence: q [length, heads * (NOPE + rope_dim)], latents [length, rank + rope_dim], absorbed queries."""
        generator = torch.Generator().manual_seed(len(self.lengths))
        shape = self.shape
        widths = (shape.n_heads * (NOPE + shape.rope_dim), shape.key_dim, shape.n_heads * shape.rank)
        q, latents, absorbed = ([torch.randn(n, w, generator=generator) for n in self.lengths] for w in widths)
        return q, latents, absorbed

    def norm(self) -> Tensor:
        return 1 + 0.3 * torch.randn(self.shape.rank, generator=torch.Generator().manual_seed(6))

    def angles(self) -> tuple[Tensor, Tensor]:
        return angles(max(self.lengths), self.half)


def serve(
    kernels: Kernels, isa: str, threads: int, case: Case, schedule: list[Step]
) -> tuple[list[Tensor], LayerCache]:
    """Computes all steps with NaN in every slot that nobody has written."""
    shape = case.shape
    q, latents, absorbed = case.inputs()
    program = kernels.program(isa)
    q_at, latents_at = program.buffer(q[0].shape[1]), program.buffer(shape.key_dim)
    queries_at, out_at = program.buffer(shape.n_heads * shape.key_dim), program.buffer(shape.n_heads * shape.rank)
    keep_latents(
        program, 0, shape, q_at, latents_at, queries_at, norm=kernels.vector(case.norm()), eps=EPS,
        rotary=0 if case.half else None, rotary_half=case.half, scale=SCALE,
    )  # fmt: skip
    attend_latents(program, 0, shape, queries_at, out_at, mask=case.mask)
    (cache,) = poisoned_caches(kernels, [shape], slots_of(case.lengths)[1], case.dtype)
    program.bind_cache([cache])
    inputs = {q_at: q, latents_at: latents, queries_at: as_queries(case, absorbed)}
    (out,) = run_steps(program, threads, case, schedule, inputs, [out_at])
    return [rows.unflatten(1, (shape.n_heads, -1)) for rows in out], cache


def as_queries(case: Case, absorbed: list[Tensor]) -> list[Tensor]:
    """Their first channels are another operation's; NaN in the place of those that turn."""
    heads = [rows.view(-1, case.shape.n_heads, case.shape.rank) * SCALE for rows in absorbed]
    return [F.pad(rows, (0, case.shape.rope_dim), value=math.nan) for rows in heads]


def kept(case: Case, cache: LayerCache) -> Tensor:
    """[n_slots, rank + rope_dim] float64."""
    shape = case.shape
    padded = -(-shape.rank // TILE) * TILE
    values = cache.keys.double().flatten(0, 1)
    latent, beside = values[:, : shape.rank], values[:, padded : padded + shape.rope_dim]
    if cache.key_scales is not None and cache.value_scales is not None:
        latent, beside = latent * cache.value_scales.view(-1, 1), beside * cache.key_scales.view(-1, 1)
    return torch.cat((latent, beside), 1)


def check(kernels: Kernels, isa: str, threads: int, case: Case, schedule: list[Step]) -> None:
    """Cache and outputs against the reference kernels."""
    shape, slots = case.shape, slots_of(case.lengths)[0]
    out, cache = serve(kernels, isa, threads, case, schedule)
    q, latents, absorbed = case.inputs()
    cos, sin = (x.double() for x in case.angles())
    keys, queries = kept(case, cache), []
    for s, n in enumerate(case.lengths):
        latent = rms_norm(latents[s][:, : shape.rank], case.norm(), EPS).double()
        heads = q[s].view(n, shape.n_heads, -1)[:, :, NOPE:].double()
        beside = latents[s][:, None, shape.rank :].double()
        turned, beside = (rotate(x, cos[:n], sin[:n]) if case.half else x for x in (heads, beside))
        theirs = torch.cat((latent, beside[:, 0]), 1)
        # The latent and what is beside it have scales of their own in int8.
        greatest = [part.abs().amax(1, keepdim=True).expand_as(part) for part in (latent, beside[:, 0]) if part.numel()]
        size = torch.cat(greatest, 1) if case.dtype == torch.int8 else theirs.abs()
        rounding = {torch.float32: 0, torch.float16: 1 / 2000, torch.bfloat16: 1 / 250, torch.int8: 1 / 250}[case.dtype]
        assert_near(keys[slots[s]], theirs, rounding * size + 2e-6 * (1 + theirs.abs()), 1.0)
        queries.append(torch.cat((absorbed[s].view(n, shape.n_heads, -1).double(), turned), -1))
    starts = [sum(case.lengths[:s]) for s in range(len(q) + 1)]
    plan = plan_attention(starts, slots, CPU)
    expected = attention(
        torch.cat(queries), keys[:, None], keys[:, None, : shape.rank], plan, scale=SCALE, mask=case.mask
    )
    assert_near(torch.cat(out), expected, 3e-5, 1.0)


SHAPES = [
    *(Latents(1, 1, 0), Latents(2, 16, 4), Latents(16, 20, 6), Latents(5, 64, 16)),
    *(Latents(13, 512, 64), Latents(8, 33, 128)),
]


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.n_heads}-{s.rank}-{s.rope_dim}")
def test_shapes(kernels: Kernels, isa: str, shape: Latents, dtype: torch.dtype) -> None:
    case = Case(shape, (1, 16, 23, 40), dtype)
    check(kernels, isa, 1, case, at_once(case))
    check(kernels, isa, 2, case, at_random(case, seed=shape.rank, most=17))


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("mask", [FULL, Sliding(5), Sliding(300), Chunked(7), Chunked(300)], ids=str)
def test_long_contexts_and_masks(kernels: Kernels, isa: str, mask: Mask, dtype: torch.dtype) -> None:
    """Over the borders of the kernels' chunks of 256 keys."""
    case = Case(Latents(4, 20, 4), (255, 256, 257, 530), dtype, mask)
    check(kernels, isa, 2, case, at_once(case))
    check(kernels, isa, 3, case, at_random(case, 3, most=150))


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("mask", [FULL, Sliding(6)], ids=str)
def test_however_a_sequence_is_cut(kernels: Kernels, mask: Mask, dtype: torch.dtype) -> None:
    """At once, alone and in random steps: the same to the bit, on any threads and instructions."""
    for case in (Case(Latents(16, 20, 6), (19, 1, 41), dtype, mask), Case(Latents(3, 16, 4), (270, 33), dtype, mask)):
        alone = [[(s, 0, n)] for s, n in enumerate(case.lengths)]
        schedules = [alone, *(at_random(case, seed, most=150) for seed in range(2))]

        def compute(isa: str, threads: int, case: Case = case, schedules: list[list[Step]] = schedules) -> Tensor:
            out, cache = serve(kernels, isa, threads, case, at_once(case))
            whole = torch.cat(out)
            assert whole.isfinite().all()
            for schedule in schedules:
                other, other_cache = serve(kernels, isa, threads, case, schedule)
                assert torch.equal(torch.cat(other), whole)
                assert_same(other_cache.keys, cache.keys)
            return whole

        kernels.same_everywhere(compute)


def test_what_is_no_number_stays_where_it_is(kernels: Kernels) -> None:
    """A NaN in a sequence's latents reaches the rows that see it, and no row before it, however they are cut."""
    case = Case(Latents(4, 16, 4), (40, 20))
    clean, _ = serve(kernels, "plain", 1, case, at_once(case))
    q, latents, absorbed = case.inputs()
    latents[0][25, 3] = math.nan
    spoiled = Case(case.shape, case.lengths)
    object.__setattr__(spoiled, "inputs", lambda: (q, latents, absorbed))
    for schedule in (at_once(case), at_random(case, 1, 30)):
        out, _ = serve(kernels, "plain", 2, spoiled, schedule)
        assert torch.equal(out[1], clean[1]) and torch.equal(out[0][:25], clean[0][:25])
        assert out[0][25:].isnan().all()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_K"])
def test_products_by_head(kernels: Kernels, isa: str, kind: str) -> None:
    """Each head's channels times its own matrix, for all rows and for an adapter's."""
    n_heads, n_in, n_out, n_rows = 3, 256, 20, 61
    stored = [stored_matrix(kind, n_out, n_in, seed) for seed in range(n_heads)]
    matrices = [kernels.matrix(one, kind, n_in) for one in stored]
    x = rows_of(n_rows, n_heads * (n_in + 4))
    heads = x.view(n_rows, n_heads, n_in + 4)[:, :, :n_in]
    before = rows_of(n_rows, n_heads * n_out, 2)
    chosen = [5, 0, 60, *range(7, 57)]
    program = kernels.program(isa)
    at, out, added, low = (program.buffer(w) for w in (x.shape[1], n_heads * n_out, n_heads * n_out, n_heads * n_out))
    head_product(program, "all", at, matrices, out, factor=0.5)
    head_product(program, "gathered", at, matrices, low, rows=0, gather=True)
    small = [kernels.matrix(stored_matrix("F32", n_out, n_out, 7), "F32", n_out)] * n_heads
    head_product(program, "scattered", low, small, added, add=True, factor=2.0, rows=0, scatter=True)
    program.write(at, x)
    program.write(added, before)
    program.run(plain_step(n_rows, adapter_rows=[chosen]), 3)
    expected = [expected_product(heads[:, h].contiguous(), one, kind) for h, one in enumerate(stored)]
    result = program.read(out, n_rows).view(n_rows, n_heads, n_out)
    for h, (value, size) in enumerate(expected):
        assert_near(result[:, h], 0.5 * value, size)
    gathered = program.read(low, len(chosen)).view(-1, n_heads, n_out)
    assert_near(gathered, 2 * result[chosen].double(), torch.stack([size[chosen] for _, size in expected], 1))
    after = program.read(added, n_rows)
    untouched = [row for row in range(n_rows) if row not in chosen]
    assert torch.equal(after[untouched], before[untouched])
    change = torch.stack([expected_product(gathered[:, h].contiguous(), stored_matrix("F32", n_out, n_out, 7), "F32")[0]
                          for h in range(n_heads)], 1).flatten(1)  # fmt: skip
    largest = change.abs().max().item()
    assert_near(after[chosen] - before[chosen], 2 * change, largest + before.abs().max().item(), 1e-5)


def refusals(kernels: Kernels) -> dict[str, Callable[[], object]]:
    program = kernels.program("plain")
    q, latents, queries, out = (program.buffer(width) for width in (14, 20, 40, 32))
    norm, shape = kernels.vector(torch.ones(16)), Latents(2, 16, 4)
    matrix = kernels.matrix(stored_matrix("F32", 16, 7), "F32", 7)

    def keep(**changes: object) -> object:
        fields = {
            "q": q,
            "latents": latents,
            "queries": queries,
            "norm": norm,
            "eps": EPS,
            "rotary": 0,
            "rotary_half": 2,
        }
        return keep_latents(program, 0, shape, **{**fields, **changes})  # type: ignore[arg-type]

    return {
        "latents of another width": lambda: keep(latents=out),
        "queries of another width": lambda: keep(queries=out),
        "a norm of another width": lambda: keep(norm=kernels.vector(torch.ones(17))),
        "more pairs than channels": lambda: keep(rotary_half=3),
        "pairs without angles": lambda: keep(rotary=None),
        "what nobody wrote": lambda: attend_latents(program, 0, shape, queries, out),
        "no heads": lambda: head_product(program, "x", q, [], out),
        "heads that do not share a row": lambda: head_product(program, "x", q, [matrix] * 3, out),
        "matrices wider than a head": lambda: head_product(program, "x", q, [matrix] * 4, out),
        "places of all rows": lambda: head_product(program, "x", q, [matrix] * 2, out, gather=True),
        "a rank of nothing": lambda: Latents(2, 0, 4),
        "a rank that is too wide": lambda: Latents(2, 513, 4).check(kernels.extension),
    }


def test_refusals(kernels: Kernels) -> None:
    check_refusals(refusals(kernels))


def test_a_cache_of_other_latents_is_not_bound(kernels: Kernels) -> None:
    program = kernels.program("plain")
    q, latents, queries = (program.buffer(width) for width in (14, 20, 40))
    norm = kernels.vector(torch.ones(16))
    keep_latents(program, 0, Latents(2, 16, 4), q, latents, queries, norm=norm, eps=EPS, rotary=0, rotary_half=2)
    with pytest.raises(ValueError):
        program.bind_cache([new_layer_cache(kernels.extension, Latents(2, 32, 4), 32, torch.float32)])
    with pytest.raises(ValueError):
        attend_latents(program, 0, Latents(2, 16, 2), queries, q)
