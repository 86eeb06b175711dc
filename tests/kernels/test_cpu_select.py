"""Sparse selection in C++: the choice of the reference kernels, the same bits however a sequence is cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from attention_cases import CACHES, CPU
from choices import (
    assert_kept,
    check_cuts,
    check_dense,
    check_refusals,
    check_what_is_no_number,
    index_rows,
)
from cpu_steps import Kernels, assert_near, poisoned_caches
from cut_sequences import TILE, Step, at_once, at_random, run_steps, slots_of
from test_cpu_latents import EPS, SCALE, Case, as_queries
from torch import Tensor

from landrace.kernels.cpu.cache import IndexKeys, Latents
from landrace.kernels.cpu.latent import attend_latents, keep_latents
from landrace.kernels.cpu.selection import select
from landrace.kernels.layer_cache import LayerCache
from landrace.kernels.reference.attention import attention, plan_attention
from landrace.kernels.reference.dense import layer_norm
from landrace.kernels.reference.rotary import rotate
from landrace.kernels.reference.selection import select as reference_select

INDEX_EPS, FACTOR = 1e-2, 0.25


@dataclass(frozen=True)
class Choosing(Case):
    """Latent attention over the `most` positions that an indexer of n heads of `width` channels chooses."""

    n_index: int = 11
    width: int = 20
    most: int = 12
    ties: bool = False
    """All scores are zero."""

    def index_inputs(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """By sequence: queries, keys and weights of the indexer."""
        generator = torch.Generator().manual_seed(17)
        widths = (self.n_index * self.width, self.width, self.n_index)
        q, k, weights = ([torch.randn(n, w, generator=generator) for n in self.lengths] for w in widths)
        return q, k, [torch.zeros_like(each) for each in weights] if self.ties else weights

    def index_norm(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(18)
        noise = torch.randn(2, self.width, generator=generator)
        return 1 + 0.3 * noise[0], 0.2 * noise[1]


def serve(
    kernels: Kernels, isa: str, threads: int, case: Choosing, schedule: list[Step], *, dense: bool = False
) -> tuple[list[Tensor], list[LayerCache]]:
    """Computes all steps with NaN in every slot that nobody has written. `dense`: attention over all positions."""
    shape = case.shape
    *own, absorbed = case.inputs()
    inputs = (*own, *case.index_inputs())
    program = kernels.program(isa)
    places = [program.buffer(rows[0].shape[1]) for rows in inputs]
    q_at, latents_at, index_q, index_k, index_weights = places
    queries_at, out_at = program.buffer(shape.n_heads * shape.key_dim), program.buffer(shape.n_heads * shape.rank)
    turned = {"rotary": 0 if case.half else None, "rotary_half": case.half}
    keep_latents(
        program,
        0,
        shape,
        q_at,
        latents_at,
        queries_at,
        norm=kernels.vector(case.norm()),
        eps=EPS,
        scale=SCALE,
        **turned,
    )  # type: ignore[arg-type]
    norm, bias = map(kernels.vector, case.index_norm())
    select(
        program, 1, IndexKeys(case.width), n_heads=case.n_index, most=case.most, q=index_q, k=index_k,
        weights=index_weights, norm=norm, norm_bias=bias, eps=INDEX_EPS, scale=FACTOR, **turned,
    )  # type: ignore[arg-type]  # fmt: skip
    attend_latents(program, 0, shape, queries_at, out_at, most=None if dense else case.most)
    n_slots = slots_of(case.lengths)[1]
    caches = poisoned_caches(kernels, (shape, IndexKeys(case.width)), n_slots, case.dtype)
    program.bind_cache(caches)
    written = {**dict(zip(places, inputs, strict=True)), queries_at: as_queries(case, absorbed)}
    (out,) = run_steps(program, threads, case, schedule, written, [out_at])
    return [rows.unflatten(1, (shape.n_heads, -1)) for rows in out], caches


def check(kernels: Kernels, isa: str, threads: int, case: Choosing, schedule: list[Step]) -> None:
    """Outputs against the reference kernels on what the caches hold."""
    shape, slots = case.shape, slots_of(case.lengths)[0]
    out, (latents, index) = serve(kernels, isa, threads, case, schedule)
    cos, sin = (x.double() for x in case.angles())
    padded = -(-shape.rank // TILE) * TILE
    kept = latents.keys.double().flatten(0, 1)
    latent, beside = kept[:, : shape.rank], kept[:, padded : padded + shape.rope_dim]
    keys = index_rows(index, case.width)
    if latents.key_scales is not None and latents.value_scales is not None:
        latent, beside = latent * latents.value_scales.view(-1, 1), beside * latents.key_scales.view(-1, 1)
    heads, _, absorbed = case.inputs()
    index_q, index_k, weights = case.index_inputs()
    queries, scoring = [], []
    for s, n in enumerate(case.lengths):

        def turned(x: Tensor, n: int = n) -> Tensor:
            return rotate(x, cos[:n], sin[:n]) if case.half else x

        theirs = turned(layer_norm(index_k[s], *case.index_norm(), INDEX_EPS).double()[:, None])[:, 0]
        assert_kept(keys[slots[s]], theirs, case.dtype)
        scoring.append(turned(index_q[s].view(n, case.n_index, -1).double()))
        own = heads[s].view(n, shape.n_heads, -1)[:, :, -shape.rope_dim :].double()
        queries.append(torch.cat((absorbed[s].view(n, shape.n_heads, -1).double(), turned(own)), -1))
    plan = plan_attention([sum(case.lengths[:s]) for s in range(len(slots) + 1)], slots, CPU)
    weight = torch.cat(weights).double() * FACTOR
    chosen = reference_select(torch.cat(scoring), keys[:, None], weight, plan, top_k=case.most)
    cache = torch.cat((latent, beside), 1)[:, None]
    expected = attention(
        torch.cat(queries), cache, cache[..., : shape.rank], plan, scale=SCALE, mask=case.mask, chosen=chosen
    )
    assert_near(torch.cat(out), expected, 3e-5, 1.0)


SHAPE = Latents(5, 20, 6)
CASES = {
    "one head": Choosing(SHAPE, (40, 13), n_index=1, width=7, most=1),
    "heads beside the eight": Choosing(SHAPE, (1, 16, 23, 40), n_index=19, width=33, most=16),
    "DeepSeek's": Choosing(Latents(13, 512, 64), (90,), n_index=64, width=128, most=32),
    "long": Choosing(Latents(4, 16, 4), (257, 530, 300), n_index=8, width=16, most=270),
    "equal scores": Choosing(SHAPE, (60, 33), most=17, ties=True),
}


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("name", CASES)
def test_the_chosen_are_those_of_the_reference(kernels: Kernels, isa: str, name: str, dtype: torch.dtype) -> None:
    case = replace(CASES[name], dtype=dtype)
    check(kernels, isa, 1, case, at_once(case))
    check(kernels, isa, 2, case, at_random(case, 3, most=150))


def test_of_equal_scores_the_first_are_chosen(kernels: Kernels, isa: str) -> None:
    """Attention over the first positions alone, whatever the row's own is."""
    case = CASES["equal scores"]
    out, _ = serve(kernels, isa, 2, case, at_once(case))
    other, _ = serve(kernels, isa, 2, replace(case, most=60), at_once(case))
    assert torch.equal(out[0][:17], other[0][:17]) and not torch.equal(out[0][17:], other[0][17:])


@pytest.mark.parametrize("dtype", CACHES)
def test_where_all_fit_it_is_dense_attention_to_the_bit(kernels: Kernels, isa: str, dtype: torch.dtype) -> None:
    case = replace(CASES["long"], dtype=dtype)
    check_dense(kernels, isa, serve, case, case.most)


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("name", ["heads beside the eight", "long", "equal scores"])
def test_however_a_sequence_is_cut(kernels: Kernels, name: str, dtype: torch.dtype) -> None:
    check_cuts(kernels, serve, replace(CASES[name], dtype=dtype))


def test_what_is_no_number_stays_in_its_sequence(kernels: Kernels) -> None:
    """A NaN in the keys of an indexer is chosen first."""
    case = CASES["heads beside the eight"]
    assert check_what_is_no_number(kernels, serve, case, "index_inputs", 1, 3, (20, 3)).isfinite().all()


def refusals(kernels: Kernels) -> dict[str, Callable[[], object]]:
    program = kernels.program("plain")
    q, k, weights, latents = (program.buffer(width) for width in (48, 16, 3, 64))
    ones, short = kernels.vector(torch.ones(16)), kernels.vector(torch.ones(15))

    def choose(**changes: object) -> object:
        fields = {
            "n_heads": 3, "most": 4, "q": q, "k": k, "weights": weights, "norm": ones, "norm_bias": ones, "eps": EPS,
            "rotary": 0, "rotary_half": 4, "layer": 0, "keys": IndexKeys(16),
        }  # fmt: skip
        return select(program, **{**fields, **changes})  # type: ignore[arg-type]

    return {
        "no positions": lambda: choose(most=0),
        "no heads": lambda: choose(n_heads=0),
        "queries of another width": lambda: choose(q=k),
        "keys of another width": lambda: choose(k=q),
        "a weight too few": lambda: choose(weights=k),
        "a norm of another width": lambda: choose(norm=short),
        "a bias of another width": lambda: choose(norm_bias=short),
        "more pairs than channels": lambda: choose(rotary_half=9),
        "pairs without angles": lambda: choose(rotary=None),
        "another layer": lambda: choose(layer=1),
        "keys that are too wide": lambda: IndexKeys(513).check(kernels.extension),
        "a choice that nobody makes": lambda: attend_latents(program, 0, Latents(2, 16, 4), latents, latents, most=5),
    }


def test_refusals(kernels: Kernels) -> None:
    check_refusals(refusals(kernels))
