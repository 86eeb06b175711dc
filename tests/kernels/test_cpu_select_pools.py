"""The choice of pools in C++: that of the reference kernels, the same bits however a sequence is cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from attention_cases import CACHES, CPU, EPS, Case, Step, flat, poisoned_cache
from cpu_steps import Kernels, assert_near, assert_same
from test_cpu_latents import at_once, at_random
from torch import Tensor

from landrace.kernels.cpu.cache import Heads, IndexKeys, new_layer_cache
from landrace.kernels.cpu.program import Rotary, StepInput
from landrace.kernels.cpu.selection import select_pools
from landrace.kernels.layer_cache import GroupView, LayerCache
from landrace.kernels.reference.attention import attention, plan_attention
from landrace.kernels.reference.dense import layer_norm, rms_norm
from landrace.kernels.reference.rotary import rotate
from landrace.kernels.reference.selection import Pooling
from landrace.kernels.reference.selection import select_pools as reference_pools

INDEX_EPS, FACTOR = 1e-2, 0.25
ROUNDING = {torch.float32: 0, torch.float16: 1 / 2000, torch.bfloat16: 1 / 250, torch.int8: 1 / 250}


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
    def keys(self) -> IndexKeys:
        return IndexKeys(self.width, self.width if self.gated else None)

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
    slots, n_slots = case.slots()
    cos, sin = case.angles()
    program = kernels.program(isa)
    places = [program.buffer(rows[0].shape[1]) for rows in inputs]
    out_at = program.buffer(heads.n_heads * heads.head_dim)
    q, k, v, index_q, index_k, *beside = places
    program.rope(0, heads, q, k, v, rotary=0, rotary_half=case.half, scale=case.scale)
    norm, second, bias = map(kernels.vector, (*case.index_vectors()[:2], case.index_vectors()[2].flatten()))
    own: dict[str, Any] = {"q_norm": second, "rotary": 0, "rotary_half": case.half}
    if case.gated:
        own = {"weights": beside[0], "gates": beside[1], "norm_bias": second, "gate_bias": bias}
    select_pools(
        program, 1, case.keys, n_heads=case.n_index, pool=case.pool, n_pools=case.n_pools, q=index_q, k=index_k,
        norm=norm, eps=INDEX_EPS, scale=FACTOR, **own,
    )  # fmt: skip
    program.attention(0, heads, q, out_at, most=None if dense else case.most, together=None if dense else True)
    caches = [
        poisoned_cache(kernels, heads, n_slots, case.dtype),
        new_layer_cache(kernels.extension, case.keys, n_slots, case.dtype),
    ]
    for tensor in caches[1].tensors:
        tensor.fill_(99 if tensor.dtype == torch.int8 else math.nan)
    program.bind_cache(caches)
    out = [torch.full((n, heads.n_heads, heads.head_dim), math.nan) for n in case.lengths]
    for step in schedule:
        starts = [0]
        for _, first, end in step:
            starts.append(starts[-1] + end - first)
        for place, rows in zip(places, inputs, strict=True):
            program.write(place, torch.cat([rows[s][first:end] for s, first, end in step]))
        positions = torch.cat([torch.arange(first, end) for _, first, end in step])
        written = torch.cat([slots[s][first:end] for s, first, end in step])
        program.run(
            StepInput(
                token_ids=torch.zeros(starts[-1], dtype=torch.long),
                positions=positions,
                starts=starts,
                groups=[GroupView(written, [slots[s][:end] for s, _, end in step], (0,) * len(step))],
                logit_rows=torch.empty(0, dtype=torch.long),
                rotary=[Rotary(cos, sin, positions)],
            ),
            threads,
        )
        result = program.read(out_at, starts[-1]).view(-1, heads.n_heads, heads.head_dim)
        for (s, first, end), start in zip(step, starts, strict=False):
            out[s][first:end] = result[start : start + end - first]
    return out, caches


def pool_keys(case: Choosing, s: int, rows: Tensor) -> Tensor:
    """[n_pools, width] of a sequence's whole pools, made of what is kept of its positions."""
    norm, _, bias = case.index_vectors()
    cos, sin = (x.double() for x in case.angles())

    def finish(keys: Tensor) -> Tensor:
        n = case.pool * torch.arange(keys.shape[1])
        return rotate(rms_norm(keys[0], norm, INDEX_EPS).double()[:, None], cos[n], sin[n]).transpose(0, 1)

    pooling = Pooling(case.pool, bias.double()) if case.gated else Pooling(case.pool, finish=finish)
    return pooling.keys(rows[None])[0]


def check(kernels: Kernels, isa: str, threads: int, case: Choosing, schedule: list[Step]) -> None:
    """Outputs against the reference kernels on the pools' keys that the cache holds, and those against what they are
    made of."""
    slots = case.slots()[0]
    out, (cache, index) = serve(kernels, isa, threads, case, schedule)
    keys, values = flat(cache, case.heads)
    kept = index.keys.double().transpose(2, 3).flatten(0, 2)
    if index.key_scales is not None:
        kept[:, : case.width] *= index.key_scales.view(-1, 1)
    if index.value_scales is not None:
        kept[:, case.width :] *= index.value_scales.view(-1, 1)
    cos, sin = (x.double() for x in case.angles())
    norm, second, _ = case.index_vectors()
    index_q, index_k, *beside = case.index_inputs()
    weight, scoring = torch.full((sum(case.lengths), case.n_index), FACTOR).double(), []
    if case.gated:
        weight = FACTOR * torch.cat(beside[0]).double()
    pooled = torch.zeros(kept.shape[0], 1, case.width, dtype=torch.double)
    for s, n in enumerate(case.lengths):
        own = layer_norm(index_k[s], norm, second, INDEX_EPS) if case.gated else index_k[s]
        own = torch.cat((own, beside[1][s]), 1).double() if case.gated else own.double()
        ends = torch.arange(n)[case.pool - 1 :: case.pool]
        rest = torch.ones(n, dtype=torch.bool).index_fill(0, ends, False)
        size = own.abs().amax(1, keepdim=True) if case.dtype == torch.int8 else own.abs()
        rounding = ROUNDING[case.dtype]
        assert_near(kept[slots[s]][rest], own[rest], (rounding * size + 4e-6 * (1 + own.abs()))[rest], 1.0)
        theirs = pool_keys(case, s, own)
        found = kept[slots[s]][ends][:, : case.width]
        assert_near(found, theirs, 6 * rounding * (1 + theirs.abs().amax(1, keepdim=True)) + 2e-5, 1.0)
        # Pools of one and the same key.
        pooled[slots[s][: len(ends) * case.pool], 0] = found.repeat_interleave(case.pool, 0)
        q = index_q[s].view(n, case.n_index, -1)
        scoring.append(q.double() if case.gated else rotate(rms_norm(q, second, INDEX_EPS).double(), cos[:n], sin[:n]))
    plan = plan_attention([sum(case.lengths[:s]) for s in range(len(slots) + 1)], slots, CPU)
    chosen = reference_pools(torch.cat(scoring), pooled, weight, plan, pooling=Pooling(case.pool), n_pools=case.n_pools)
    queries = torch.cat([case.turned(q, None, True) for q in case.inputs()[0]])
    expected = attention(queries, keys, values, plan, scale=1.0, mask=case.mask, chosen=chosen)
    assert_near(torch.cat(out), expected, 3e-5, 1.0)


CASES = {
    "means": Choosing(Heads(4, 2, 12), (100, 33, 48, 49), rotary_half=4),
    "gates": Choosing(Heads(4, 2, 12), (100, 33, 48, 49), gated=True, n_index=19),
    "pools across tiles": Choosing(Heads(6, 3, 20), (90, 41, 3), rotary_half=6, pool=7, n_pools=3),
    "gated pools across tiles": Choosing(Heads(2, 1, 8), (90, 41, 3), gated=True, pool=24, n_pools=2, width=33),
    "pools of one": Choosing(Heads(2, 2, 8), (40, 17), width=8, rotary_half=4, pool=1, n_pools=7),
    "Qwen4-Exp's": Choosing(Heads(24, 2, 256), (300,), rotary_half=32, n_index=4, width=128, n_pools=32),
    "GLM-5.3's": Choosing(Heads(8, 1, 64), (600, 257), gated=True, n_index=32, width=128, n_pools=64),
}


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("name", CASES)
def test_the_chosen_are_those_of_the_reference(kernels: Kernels, isa: str, name: str, dtype: torch.dtype) -> None:
    case = replace(CASES[name], dtype=dtype)
    check(kernels, isa, 1, case, at_once(case))  # type: ignore[arg-type]
    check(kernels, isa, 2, case, at_random(case, 3, most=150))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", CACHES)
def test_where_all_fit_it_is_dense_attention_to_the_bit(kernels: Kernels, isa: str, dtype: torch.dtype) -> None:
    case = replace(CASES["GLM-5.3's"], dtype=dtype)
    chosen, _ = serve(kernels, isa, 3, case, at_once(case))  # type: ignore[arg-type]
    dense, _ = serve(kernels, isa, 3, case, at_once(case), dense=True)  # type: ignore[arg-type]
    most = case.most
    assert torch.equal(chosen[1], dense[1][: len(chosen[1])]) and torch.equal(chosen[0][:most], dense[0][:most])
    assert all(not torch.equal(*rows) for rows in zip(chosen[0][most:], dense[0][most:], strict=True))


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("name", ["means", "gates", "pools across tiles", "gated pools across tiles"])
def test_however_a_sequence_is_cut(kernels: Kernels, name: str, dtype: torch.dtype) -> None:
    """At once, alone and in random steps: the same to the bit, on any threads and instructions."""
    case = replace(CASES[name], dtype=dtype)
    schedules = [[[(s, 0, n)] for s, n in enumerate(case.lengths)], at_random(case, 1, 150)]  # type: ignore[arg-type]

    def compute(isa: str, threads: int) -> Tensor:
        out, caches = serve(kernels, isa, threads, case, at_once(case))  # type: ignore[arg-type]
        whole = torch.cat(out)
        assert whole.isfinite().all()
        for schedule in schedules:
            other, others = serve(kernels, isa, threads, case, schedule)
            assert torch.equal(torch.cat(other), whole)
            assert_same(others[1].keys, caches[1].keys)
        return whole

    kernels.same_everywhere(compute)


@pytest.mark.parametrize("name", ["means", "gates"])
def test_of_equal_scores_the_first_are_chosen(kernels: Kernels, isa: str, name: str) -> None:
    """All keys are equal, so every row sees the first pools and those of its own that are not whole."""
    case = CASES[name]
    q, k, *beside = case.index_inputs()
    same = replace(case)
    object.__setattr__(same, "index_inputs", lambda: ([torch.zeros_like(x) for x in q], k, *beside))
    out, (cache, _) = serve(kernels, isa, 2, same, at_once(same))  # type: ignore[arg-type]
    slots = case.slots()[0]
    keys, values = flat(cache, case.heads)
    plan = plan_attention([sum(case.lengths[:s]) for s in range(len(slots) + 1)], slots, CPU)
    ones = torch.ones(sum(case.lengths), 1, 1).double()
    zeros = torch.zeros(keys.shape[0], 1, 1).double()
    chosen = reference_pools(ones, zeros, ones[:, 0], plan, pooling=Pooling(case.pool), n_pools=case.n_pools)
    assert chosen[0][0, 0, -1].nonzero().flatten().tolist()[: 4 * 5] == list(range(20))
    queries = torch.cat([case.turned(one, None, True) for one in case.inputs()[0]])
    assert_near(
        torch.cat(out), attention(queries, keys, values, plan, scale=1.0, mask=case.mask, chosen=chosen), 3e-5, 1
    )


@pytest.mark.parametrize("name", ["means", "gates"])
def test_what_is_no_number_stays_in_its_sequence(kernels: Kernels, name: str) -> None:
    """A pool with a NaN in the indexer's keys is chosen first, and no other sequence and no row before it feels it."""
    case = CASES[name]
    clean, _ = serve(kernels, "plain", 1, case, at_once(case))  # type: ignore[arg-type]
    q, k, *beside = case.index_inputs()
    k[0][40, 3] = math.nan
    spoiled = replace(case)
    object.__setattr__(spoiled, "index_inputs", lambda: (q, k, *beside))
    out, _ = serve(kernels, "plain", 2, spoiled, at_random(case, 1, 30))  # type: ignore[arg-type]
    assert all(torch.equal(out[s], clean[s]) for s in (1, 2, 3))
    assert torch.equal(out[0][:40], clean[0][:40]) and out[0].isfinite().all()


def refusals(kernels: Kernels) -> dict[str, Callable[[], object]]:
    program = kernels.program("plain")
    q, k, weights, out = (program.buffer(width) for width in (48, 16, 3, 16))
    ones, short, places = (kernels.vector(torch.ones(n)) for n in (16, 15, 64))

    def choose(**changes: object) -> object:
        fields = {
            "n_heads": 3, "pool": 4, "n_pools": 3, "q": q, "k": k, "norm": ones, "eps": EPS, "layer": 0,
            "keys": IndexKeys(16),
        }  # fmt: skip
        return select_pools(program, **{**fields, **changes})  # type: ignore[arg-type]

    def gated(**changes: object) -> object:
        fields = {"keys": IndexKeys(16, 16), "gates": k, "gate_bias": places, "norm_bias": ones, "weights": weights}
        return choose(**{**fields, **changes})

    return {
        "no pools": lambda: choose(n_pools=0),
        "pools of nothing": lambda: choose(pool=0),
        "more positions than can be": lambda: choose(pool=1 << 20, n_pools=1 << 20),
        "no heads": lambda: choose(n_heads=0),
        "queries of another width": lambda: choose(q=k),
        "keys of another width": lambda: choose(k=q),
        "a weight too few": lambda: choose(weights=k),
        "a norm of another width": lambda: choose(norm=short),
        "another norm of another width": lambda: choose(q_norm=short),
        "a bias without gates": lambda: choose(norm_bias=ones),
        "gates that nobody keeps": lambda: gated(keys=IndexKeys(16)),
        "gates that nobody brings": lambda: gated(gates=None),
        "gates of another width": lambda: gated(gates=q),
        "fewer gates than channels": lambda: gated(keys=IndexKeys(16, 8)),
        "a place too few": lambda: gated(gate_bias=ones),
        "a norm without a bias": lambda: gated(norm_bias=None),
        "gated keys that turn": lambda: gated(rotary=0, rotary_half=4),
        "more pairs than channels": lambda: choose(rotary=0, rotary_half=9),
        "another layer": lambda: choose(layer=1),
        "a choice that nobody makes": lambda: program.attention(0, Heads(2, 1, 8), out, out, most=15, together=True),
    }


def test_refusals(kernels: Kernels) -> None:
    for name, act in refusals(kernels).items():
        with pytest.raises(ValueError):
            act()
            pytest.fail(name)
