"""Blocks chosen by means of keys in C++: those of the reference kernels on what the caches hold, and the same bits
however a sequence is cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from attention_cases import CACHES, CPU, Case, flat
from choices import check_cuts, check_dense, check_refusals, check_what_is_no_number
from cpu_steps import Kernels, assert_near, poisoned_caches
from cut_sequences import Step, at_once, at_random, run_steps, slots_of
from torch import Tensor

from landrace.kernels.cpu.cache import Heads, IndexKeys
from landrace.kernels.cpu.selection import select_by_means
from landrace.kernels.layer_cache import LayerCache
from landrace.kernels.reference.attention import attention, plan_attention
from landrace.kernels.reference.key_means import select_by_means as reference_choice


@dataclass(frozen=True)
class Choosing(Case):
    block: int = 32
    n_blocks: int = 5
    n_first: int = 1
    n_local: int = 2
    onset: int = 200

    @property
    def sizes(self) -> dict[str, int]:
        return {"block": self.block, "n_first": self.n_first, "n_local": self.n_local, "onset": self.onset}


def serve(
    kernels: Kernels, isa: str, threads: int, case: Choosing, schedule: list[Step], *, dense: bool = False
) -> tuple[list[Tensor], list[LayerCache]]:
    """Computes all steps with NaN in every slot that nobody has written. `dense`: attention over all positions."""
    heads = case.heads
    inputs = [[x.flatten(1) for x in each] for each in case.inputs()]
    program, n_slots = kernels.program(isa), slots_of(case.lengths)[1]
    places = [program.buffer(rows[0].shape[1]) for rows in inputs]
    out_at = program.buffer(heads.n_heads * heads.head_dim)
    program.rope(0, heads, *places, rotary=0, rotary_half=case.half, scale=case.scale)
    select_by_means(program, 1, 0, heads, n_blocks=case.n_blocks, q=places[0], **case.sizes)
    most = None if dense else case.block * case.n_blocks
    program.attention(0, heads, places[0], out_at, most=most, onset=case.onset)
    means = IndexKeys(heads.n_kv_heads * heads.head_dim // 16)
    caches = poisoned_caches(kernels, (heads, means), n_slots, case.dtype)
    program.bind_cache(caches)
    (out,) = run_steps(program, threads, case, schedule, dict(zip(places, inputs, strict=True)), [out_at])
    return [rows.unflatten(1, (heads.n_heads, -1)) for rows in out], caches


def kept(index: LayerCache, slots: Tensor, n_kv_heads: int) -> Tensor:
    """The means of a sequence as its cache holds them, [1, n_kv_heads, M, d]."""
    values = index.keys.double()
    if index.key_scales is not None:
        values = values * index.key_scales.unsqueeze(2)
    means = values[slots[: len(slots) // 16 * 16 : 16] // 16]
    return means.flatten(1).unflatten(1, (n_kv_heads, -1)).transpose(0, 1)[None]


def check(kernels: Kernels, isa: str, threads: int, case: Choosing, schedule: list[Step]) -> None:
    """Means against the keys that the cache holds, and outputs against the reference kernels on both."""
    slots = slots_of(case.lengths)[0]
    out, (cache, index) = serve(kernels, isa, threads, case, schedule)
    keys, values = flat(cache, case.heads)
    rounding = {torch.float32: 1e-6, torch.float16: 1 / 2000, torch.bfloat16: 1 / 250, torch.int8: 1 / 100}[case.dtype]
    for s, n in enumerate(case.lengths):
        means = kept(index, slots[s], case.heads.n_kv_heads)
        theirs = keys[slots[s][: n // 16 * 16]].double().unflatten(0, (-1, 16)).mean(1).transpose(0, 1)[None]
        assert torch.allclose(means, theirs, atol=rounding * (1 + float(theirs.abs().max())), rtol=0)
        queries = torch.cat([case.turned(case.inputs()[0][s], None, True)])
        plan = plan_attention([0, n], [slots[s]], CPU)
        sizes = {**case.sizes, "top_k": case.n_blocks}
        chosen = reference_choice(queries, [means.double()], plan, scale=1.0, **sizes)
        assert_near(out[s], attention(queries, keys, values, plan, scale=1.0, mask=case.mask, chosen=chosen), 3e-5, 1.0)


CASES = {
    "small": Choosing(Heads(4, 2, 16), (370, 33, 260, 200)),
    "many blocks, none first": Choosing(Heads(6, 3, 32), (430, 141), block=16, n_blocks=9, n_first=0, onset=144),
    "MiniCPM's heads": Choosing(Heads(32, 2, 128), (500, 300), block=64, n_blocks=4, onset=256),
}


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("name", CASES)
def test_the_chosen_are_those_of_the_reference(kernels: Kernels, isa: str, name: str, dtype: torch.dtype) -> None:
    case = replace(CASES[name], dtype=dtype)
    check(kernels, isa, 1, case, at_once(case))
    check(kernels, isa, 2, case, at_random(case, 3, most=150))


@pytest.mark.parametrize("dtype", CACHES)
def test_however_a_sequence_is_cut(kernels: Kernels, dtype: torch.dtype) -> None:
    check_cuts(kernels, serve, replace(CASES["small"], dtype=dtype))


@pytest.mark.parametrize("dtype", CACHES)
def test_before_the_onset_it_is_dense_attention_to_the_bit(kernels: Kernels, isa: str, dtype: torch.dtype) -> None:
    case = replace(CASES["small"], dtype=dtype)
    check_dense(kernels, isa, serve, case, case.onset)


def test_what_is_no_number_stays_in_its_sequence(kernels: Kernels) -> None:
    check_what_is_no_number(kernels, serve, CASES["small"], "inputs", 1, 0, (100, 1, 3), most=90)


def refusals(kernels: Kernels) -> dict[str, Callable[[], object]]:
    def choose(heads: Heads = Heads(4, 2, 16), *, layer: int = 1, keys: int = 0, **changes: int) -> object:
        program = kernels.program("plain")
        q, k = program.buffer(heads.n_heads * heads.head_dim), program.buffer(heads.n_kv_heads * heads.head_dim)
        program.rope(0, heads, q, k, k, rotary=None)
        sizes = {"block": 32, "n_blocks": 5, "n_first": 1, "n_local": 2, "onset": 160, "q": q}
        return select_by_means(program, layer, keys, heads, **{**sizes, **changes})

    choose()
    return {
        "heads of parts of vectors": lambda: choose(Heads(4, 2, 12)),
        "blocks of parts of means": lambda: choose(block=24),
        "no blocks": lambda: choose(n_blocks=0),
        "more positions than can be": lambda: choose(block=1 << 20, n_blocks=1 << 20),
        "not the row's own block": lambda: choose(n_local=0),
        "more blocks in any case than blocks": lambda: choose(n_first=4),
        "an onset before there is a choice": lambda: choose(onset=159),
        "an onset before there is a coarse window": lambda: choose(block=16, n_blocks=3, onset=126),
        "another width": lambda: choose(q=1),
        "keys that nobody writes": lambda: choose(keys=1),
        "another layer": lambda: choose(layer=2),
    }


def test_refusals(kernels: Kernels) -> None:
    check_refusals(refusals(kernels))
