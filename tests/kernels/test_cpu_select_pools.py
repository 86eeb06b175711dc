"""The choice of pools in C++: that of the reference kernels, the same bits however a sequence is cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from attention_cases import CACHES, CPU, Case, flat
from choices import (
    assert_kept,
    check_cuts,
    check_dense,
    check_refusals,
    check_what_is_no_number,
    index_rows,
    with_inputs,
)
from cpu_steps import Kernels, assert_near, poisoned_caches
from cut_sequences import Step, at_once, at_random, run_steps, slots_of
from torch import Tensor

from landrace.kernels.cpu.cache import Heads, IndexKeys, new_layer_cache
from landrace.kernels.cpu.selection import keep_pool_inputs, pool_keys, select_pools
from landrace.kernels.cpu.step import StepInput
from landrace.kernels.layer_cache import GroupView, LayerCache
from landrace.kernels.reference.attention import attention, plan_attention
from landrace.kernels.reference.dense import layer_norm, rms_norm
from landrace.kernels.reference.pools import mean_keys
from landrace.kernels.reference.rotary import rotate
from landrace.kernels.reference.selection import select_pools as reference_pools

INDEX_EPS, FACTOR = 1e-2, 0.25


@dataclass(frozen=True)
class Choosing(Case):
    """Attention over `n_pools` pools that an indexer of n heads of `width` channels chooses: GLM-5.3's kind, with gates
    and weights of heads, or Qwen4-Exp's, whose heads and pools are normalised and turn."""

    gated: bool = False
    n_index: int = 11
    width: int = 20
    pool: int = 4
    n_pools: int = 5

    @property
    def shapes(self) -> tuple[IndexKeys, IndexKeys]:
        """Of what keys are made of, and of keys."""
        return IndexKeys(self.width, self.width if self.gated else None), IndexKeys(self.width)

    @property
    def most(self) -> int:
        return self.pool * (self.n_pools + 1) - 1

    def index_inputs(self) -> tuple[list[Tensor], ...]:
        """By sequence: queries and keys of the indexer, and weights and gates where it has them."""
        generator = torch.Generator().manual_seed(17)
        widths = (self.n_index * self.width, self.width, *((self.n_index, self.width) if self.gated else ()))
        return tuple([torch.randn(n, w, generator=generator) for n in self.lengths] for w in widths)

    def index_vectors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The norm of keys, that of queries or the bias of the first, and what is added to gates."""
        noise = torch.randn(2 + self.pool, self.width, generator=torch.Generator().manual_seed(18))
        return 1 + 0.3 * noise[0], (0.2 if self.gated else 1.0) + 0.3 * noise[1], noise[2:]


def serve(
    kernels: Kernels, isa: str, threads: int, case: Choosing, schedule: list[Step], *, dense: bool = False
) -> tuple[list[Tensor], list[LayerCache]]:
    """Computes all steps with NaN in every slot that nobody has written. `dense`: attention over all positions."""
    heads = case.heads
    inputs = [[x.flatten(1) for x in each] for each in (*case.inputs(), *case.index_inputs())]
    program, n_slots = kernels.program(isa), slots_of(case.lengths)[1]
    places = [program.buffer(rows[0].shape[1]) for rows in inputs]
    out_at = program.buffer(heads.n_heads * heads.head_dim)
    q, k, v, index_q, index_k, *beside = places
    program.rope(0, heads, q, k, v, rotary=0, rotary_half=case.half, scale=case.scale)
    norm, second, bias = map(kernels.vector, (*case.index_vectors()[:2], case.index_vectors()[2].flatten()))
    turned = {"eps": INDEX_EPS, "rotary": 0, "rotary_half": case.half}
    kept: dict[str, Any] = {}
    made: dict[str, Any] = {"norm": norm, **turned}
    asked: dict[str, Any] = {"norm": second, **turned}
    if case.gated:
        kept = {"gates": beside[1], "norm": norm, "norm_bias": second, "eps": INDEX_EPS}
        made, asked = {"gate_bias": bias}, {"weights": beside[0]}
    of_inputs, of_keys = case.shapes
    keep_pool_inputs(program, 1, of_inputs, index_k, **kept)
    pool_keys(program, 2, of_keys, inputs=1, pool=case.pool, group=1, **made)
    select_pools(
        program, 2, of_keys, n_heads=case.n_index, pool=case.pool, n_pools=case.n_pools, q=index_q, scale=FACTOR,
        **asked,
    )  # fmt: skip
    program.attention(0, heads, q, out_at, most=None if dense else case.most, together=None if dense else True)
    caches = poisoned_caches(kernels, (heads, *case.shapes), n_slots, case.dtype)
    program.bind_cache(caches)
    written = dict(zip(places, inputs, strict=True))
    (mixed,) = run_steps(program, threads, case, schedule, written, [out_at], entries=case.pool)
    out = [x.view(-1, heads.n_heads, heads.head_dim) for x in mixed]
    return out, caches


def keys_of(case: Choosing, rows: Tensor) -> Tensor:
    """[n_pools, width] of a sequence's whole pools, made of what is kept of its positions."""
    norm, _, bias = case.index_vectors()
    cos, sin = (x.double() for x in case.angles())
    pools = rows[: len(rows) // case.pool * case.pool].unflatten(0, (-1, case.pool))
    if case.gated:
        return mean_keys(pools, bias.double())
    firsts = case.pool * torch.arange(len(pools))
    means = rms_norm(mean_keys(pools, None), norm, INDEX_EPS).double()
    return rotate(means[:, None], cos[firsts], sin[firsts])[:, 0]


def check(kernels: Kernels, isa: str, threads: int, case: Choosing, schedule: list[Step]) -> None:
    """Outputs against the reference kernels on the pools' keys that the cache holds, and those against what they are
    made of."""
    slots = slots_of(case.lengths)[0]
    out, (cache, inputs, index) = serve(kernels, isa, threads, case, schedule)
    keys, values = flat(cache, case.heads)
    kept, made = (index_rows(one, case.width) for one in (inputs, index))
    cos, sin = (x.double() for x in case.angles())
    norm, second, _ = case.index_vectors()
    index_q, index_k, *beside = case.index_inputs()
    weight, scoring = torch.full((sum(case.lengths), case.n_index), FACTOR).double(), []
    if case.gated:
        weight = FACTOR * torch.cat(beside[0]).double()
    for s, n in enumerate(case.lengths):
        own = layer_norm(index_k[s], norm, second, INDEX_EPS) if case.gated else index_k[s]
        own = torch.cat((own, beside[1][s]), 1).double() if case.gated else own.double()
        for part, theirs in zip(kept[slots[s]].split(case.width, 1), own.split(case.width, 1), strict=True):
            assert_kept(part, theirs, case.dtype)
        assert_kept(made[slots[s][: n // case.pool]], keys_of(case, kept[slots[s]]), case.dtype, beside=2e-5)
        q = index_q[s].view(n, case.n_index, -1)
        scoring.append(q.double() if case.gated else rotate(rms_norm(q, second, INDEX_EPS).double(), cos[:n], sin[:n]))
    plan = plan_attention([sum(case.lengths[:s]) for s in range(len(slots) + 1)], slots, CPU)
    places = [own[: len(own) // case.pool] for own in slots]
    sizes = {"size": case.pool, "n_pools": case.n_pools}
    chosen = reference_pools(torch.cat(scoring), made, places, weight, plan, **sizes)
    queries = torch.cat([case.turned(q, None, True) for q in case.inputs()[0]])
    expected = attention(queries, keys, values, plan, scale=1.0, mask=case.mask, chosen=chosen)
    assert_near(torch.cat(out), expected, 3e-5, 1.0)


CASES = {
    "means": Choosing(Heads(4, 2, 12), (100, 33, 48, 49), rotary_half=4),
    "gates": Choosing(Heads(4, 2, 12), (100, 33, 48, 49), gated=True, n_index=19),
    "pools across tiles": Choosing(Heads(6, 3, 20), (90, 41, 3), rotary_half=6, pool=7, n_pools=3),
    "gated pools across tiles": Choosing(Heads(2, 1, 8), (90, 41, 3), gated=True, pool=24, n_pools=2, width=33),
    "pools of two": Choosing(Heads(2, 2, 8), (40, 17), width=8, rotary_half=4, pool=2, n_pools=7),
    "Qwen4-Exp's": Choosing(Heads(24, 2, 256), (300,), rotary_half=32, n_index=4, width=128, n_pools=32),
    "GLM-5.3's": Choosing(Heads(8, 1, 64), (600, 257), gated=True, n_index=32, width=128, n_pools=64),
}


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("name", CASES)
def test_the_chosen_are_those_of_the_reference(kernels: Kernels, isa: str, name: str, dtype: torch.dtype) -> None:
    case = replace(CASES[name], dtype=dtype)
    check(kernels, isa, 1, case, at_once(case))
    check(kernels, isa, 2, case, at_random(case, 3, most=150))


@pytest.mark.parametrize("dtype", CACHES)
def test_where_all_fit_it_is_dense_attention_to_the_bit(kernels: Kernels, isa: str, dtype: torch.dtype) -> None:
    case = replace(CASES["GLM-5.3's"], dtype=dtype)
    check_dense(kernels, isa, serve, case, case.most)


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("name", ["means", "gates", "pools across tiles", "gated pools across tiles"])
def test_however_a_sequence_is_cut(kernels: Kernels, name: str, dtype: torch.dtype) -> None:
    check_cuts(kernels, serve, replace(CASES[name], dtype=dtype))


@pytest.mark.parametrize("name", ["means", "gates"])
def test_of_equal_scores_the_first_are_chosen(kernels: Kernels, isa: str, name: str) -> None:
    """All keys are equal, so every row sees the first pools and those of its own that are not whole."""
    case = CASES[name]
    q, k, *beside = case.index_inputs()
    same = with_inputs(case, "index_inputs", ([torch.zeros_like(x) for x in q], k, *beside))
    out, (cache, *_) = serve(kernels, isa, 2, same, at_once(same))
    slots = slots_of(case.lengths)[0]
    keys, values = flat(cache, case.heads)
    plan = plan_attention([sum(case.lengths[:s]) for s in range(len(slots) + 1)], slots, CPU)
    ones = torch.ones(sum(case.lengths), 1, 1).double()
    zeros, places = torch.zeros(keys.shape[0], 1).double(), [own[: len(own) // case.pool] for own in slots]
    sizes = {"size": case.pool, "n_pools": case.n_pools}
    chosen = reference_pools(ones, zeros, places, ones[:, 0], plan, **sizes)
    assert chosen[0][0, 0, -1].nonzero().flatten().tolist()[: 4 * 5] == list(range(20))
    queries = torch.cat([case.turned(one, None, True) for one in case.inputs()[0]])
    assert_near(
        torch.cat(out), attention(queries, keys, values, plan, scale=1.0, mask=case.mask, chosen=chosen), 3e-5, 1
    )


@pytest.mark.parametrize("name", ["means", "gates"])
def test_what_is_no_number_stays_in_its_sequence(kernels: Kernels, name: str) -> None:
    """A pool with a NaN in the indexer's keys is chosen first."""
    case = CASES[name]
    assert check_what_is_no_number(kernels, serve, case, "index_inputs", 1, 0, (40, 3)).isfinite().all()


def refusals(kernels: Kernels) -> dict[str, Callable[[], object]]:
    program = kernels.program("plain")
    q, k, out = (program.buffer(width) for width in (48, 16, 16))
    ones, short, places = (kernels.vector(torch.ones(n)) for n in (16, 15, 64))
    plain, gated = IndexKeys(16), IndexKeys(16, 16)
    keep_pool_inputs(program, 0, plain, k)
    keep_pool_inputs(program, 1, gated, k, gates=k)
    pool_keys(program, 2, plain, inputs=0, pool=4, norm=ones, group=1)

    def keep(**changes: Any) -> object:
        fields: dict[str, Any] = {"layer": 3, "shape": gated, "k": k, "gates": k, "norm": ones, "norm_bias": ones}
        return keep_pool_inputs(program, **{**fields, **changes})

    def make(**changes: Any) -> object:
        fields: dict[str, Any] = {"layer": 3, "keys": plain, "inputs": 0, "pool": 4, "norm": ones, "group": 1}
        return pool_keys(program, **{**fields, **changes})

    def choose(**changes: Any) -> object:
        fields: dict[str, Any] = {"layer": 2, "keys": plain, "n_heads": 3, "pool": 4, "n_pools": 3, "q": q}
        return select_pools(program, **{**fields, **changes})

    return {
        "keys of another width": lambda: keep(k=q),
        "gates that nobody keeps": lambda: keep(shape=plain),
        "gates that nobody brings": lambda: keep(gates=None),
        "gates of another width": lambda: keep(gates=q),
        "fewer gates than channels": lambda: keep(shape=IndexKeys(16, 8)),
        "a norm of another width": lambda: keep(norm=short, norm_bias=short),
        "a norm without a bias": lambda: keep(norm_bias=None),
        "another layer": lambda: keep(layer=4),
        "pools of nothing": lambda: make(pool=0),
        "pools of one": lambda: make(pool=1),
        "inputs that nobody keeps": lambda: make(inputs=3),
        "gates that are not kept": lambda: make(norm=None, gate_bias=places),
        "gates without a bias": lambda: make(inputs=1),
        "a place too few": lambda: make(inputs=1, norm=None, gate_bias=ones),
        "gated keys with a norm": lambda: make(inputs=1, gate_bias=places),
        "gated keys that turn": lambda: make(inputs=1, norm=None, gate_bias=places, rotary=0, rotary_half=4),
        "keys without a norm": lambda: make(norm=None),
        "another norm of another width": lambda: make(norm=short),
        "more pairs than channels": lambda: make(rotary=0, rotary_half=9),
        "no pools": lambda: choose(n_pools=0),
        "more positions than can be": lambda: choose(pool=1 << 20, n_pools=1 << 20),
        "no heads": lambda: choose(n_heads=0),
        "queries of another width": lambda: choose(q=k),
        "a weight too few": lambda: choose(weights=k),
        "queries' norm of another width": lambda: choose(norm=short),
        "keys that nobody makes": lambda: choose(layer=3),
        "a choice that nobody makes": lambda: program.attention(0, Heads(2, 1, 8), out, out, most=15, together=True),
    }


def test_refusals(kernels: Kernels) -> None:
    check_refusals(refusals(kernels))


def test_steps_that_cannot_be_computed(kernels: Kernels) -> None:
    """Pools of another size than the cache group's entries, and pools whose first positions are not there."""
    program = kernels.program("plain")
    q, k = program.buffer(48), program.buffer(16)
    keep_pool_inputs(program, 0, IndexKeys(16), k)
    pool_keys(program, 1, IndexKeys(16), inputs=0, pool=6, norm=kernels.vector(torch.ones(16)), group=1)
    select_pools(program, 1, IndexKeys(16), n_heads=3, pool=6, n_pools=1, q=q)
    program.bind_cache([new_layer_cache(kernels.extension, IndexKeys(16), 64, torch.float32) for _ in range(2)])

    def step(size: int, first: int) -> StepInput:
        rows = torch.arange(16, 24)
        inputs = GroupView(rows, [torch.arange(first, 24)], (first,))
        entries = GroupView(rows // size, [torch.arange(24 // size)], (0,), size)
        return StepInput(
            token_ids=torch.zeros(8, dtype=torch.long), positions=rows, starts=(0, 8), groups=(inputs, entries),
            logit_rows=torch.empty(0, dtype=torch.long), rotary=(),
        )  # fmt: skip

    program.run(step(6, 0))
    with pytest.raises(IndexError, match="entries"):
        program.run(step(5, 0))
    with pytest.raises(IndexError, match="position 12"):
        program.run(step(6, 16))
