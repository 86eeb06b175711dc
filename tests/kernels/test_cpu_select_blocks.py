"""The choice of blocks in C++: that of the reference kernels, the same bits however a sequence is cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from attention_cases import CACHES, CPU, EPS, Case, flat
from choices import (
    assert_kept,
    check_cuts,
    check_dense,
    check_refusals,
    check_what_is_no_number,
    index_rows,
)
from cpu_steps import Kernels, assert_near, poisoned_caches
from cut_sequences import Step, at_once, at_random, run_steps, slots_of
from torch import Tensor

from landrace.kernels.cpu.cache import Heads, IndexKeys, new_layer_cache
from landrace.kernels.cpu.selection import select_blocks
from landrace.kernels.layer_cache import INT4, LayerCache
from landrace.kernels.reference.attention import attention, plan_attention
from landrace.kernels.reference.dense import rms_norm
from landrace.kernels.reference.rotary import rotate
from landrace.kernels.reference.selection import select_blocks as reference_blocks

INDEX_EPS = 1e-2


@dataclass(frozen=True)
class Choosing(Case):
    """Attention over `n_blocks` blocks that an indexer of `width` channels chooses."""

    width: int = 20
    block: int = 16
    n_blocks: int = 3
    n_local: int = 1

    def index_inputs(self) -> tuple[list[Tensor], list[Tensor]]:
        """By sequence: queries and keys of the indexer."""
        generator = torch.Generator().manual_seed(17)
        widths = (self.heads.n_kv_heads * self.width, self.width)
        q, k = ([torch.randn(n, w, generator=generator) for n in self.lengths] for w in widths)
        return q, k

    def index_norms(self) -> tuple[Tensor, Tensor]:
        noise = torch.randn(2, self.width, generator=torch.Generator().manual_seed(18))
        return 1 + 0.3 * noise[0], 1 + 0.3 * noise[1]


def serve(
    kernels: Kernels, isa: str, threads: int, case: Choosing, schedule: list[Step], *, dense: bool = False
) -> tuple[list[Tensor], list[LayerCache]]:
    """Computes all steps with NaN in every slot that nobody has written. `dense`: attention over all positions."""
    heads = case.heads
    inputs = [[x.flatten(1) for x in each] for each in (*case.inputs(), *case.index_inputs())]
    program, n_slots = kernels.program(isa), slots_of(case.lengths)[1]
    places = [program.buffer(rows[0].shape[1]) for rows in inputs]
    out_at = program.buffer(heads.n_heads * heads.head_dim)
    q, k, v, index_q, index_k = places
    program.rope(0, heads, q, k, v, rotary=0, rotary_half=case.half, scale=case.scale)
    q_norm, k_norm = map(kernels.vector, case.index_norms())
    select_blocks(
        program, 1, IndexKeys(case.width), n_heads=heads.n_kv_heads, block=case.block, n_blocks=case.n_blocks,
        n_local=case.n_local, q=index_q, k=index_k, q_norm=q_norm, k_norm=k_norm, eps=INDEX_EPS, rotary=0,
        rotary_half=case.half,
    )  # fmt: skip
    sinks = case.head_sinks()
    program.attention(
        0, heads, q, out_at, sinks=None if sinks is None else kernels.vector(sinks),
        most=None if dense else case.block * case.n_blocks,
    )  # fmt: skip
    caches = poisoned_caches(kernels, (heads, IndexKeys(case.width)), n_slots, case.dtype)
    program.bind_cache(caches)
    (out,) = run_steps(program, threads, case, schedule, dict(zip(places, inputs, strict=True)), [out_at])
    return [rows.unflatten(1, (heads.n_heads, -1)) for rows in out], caches


def check(kernels: Kernels, isa: str, threads: int, case: Choosing, schedule: list[Step]) -> None:
    """Outputs against the reference kernels on what the caches hold."""
    slots = slots_of(case.lengths)[0]
    out, (cache, index) = serve(kernels, isa, threads, case, schedule)
    keys, values = flat(cache, case.heads)
    index_keys = index_rows(index, case.width)
    cos, sin = (x.double() for x in case.angles())

    def made(x: Tensor, weight: Tensor) -> Tensor:
        return rotate(rms_norm(x, weight, INDEX_EPS).double(), cos[: len(x)], sin[: len(x)])

    (q_norm, k_norm), (index_q, index_k) = case.index_norms(), case.index_inputs()
    scoring = []
    for s, n in enumerate(case.lengths):
        theirs = made(index_k[s][:, None], k_norm)[:, 0]
        assert_kept(index_keys[slots[s]], theirs, case.dtype)
        scoring.append(made(index_q[s].view(n, case.heads.n_kv_heads, -1), q_norm))
    plan = plan_attention([sum(case.lengths[:s]) for s in range(len(slots) + 1)], slots, CPU)
    chosen = reference_blocks(
        torch.cat(scoring), index_keys[:, None], plan, n_heads=case.heads.n_heads, block=case.block,
        top_k=case.n_blocks, n_local=case.n_local,
    )  # fmt: skip
    queries = torch.cat([case.turned(q, None, True) for q in case.inputs()[0]])
    expected = attention(queries, keys, values, plan, scale=1.0, mask=case.mask, sinks=case.head_sinks(), chosen=chosen)
    assert_near(torch.cat(out), expected, 3e-5, 1.0)


CASES = {
    "whole tiles": Choosing(Heads(4, 2, 12), (100, 33, 48, 49)),
    "parts of tiles, sinks": Choosing(
        Heads(6, 3, 20), (90, 41), rotary_half=4, sinks=True, block=5, n_blocks=4, n_local=2
    ),
    "one position": Choosing(Heads(2, 2, 8), (40, 17), width=8, block=1, n_blocks=7),
    "MiniMax's": Choosing(Heads(32, 2, 128), (700, 300), rotary_half=32, width=128, block=128, n_blocks=2),
    "long": Choosing(Heads(3, 1, 16), (600, 257), width=16, block=7, n_blocks=60, n_local=3),
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
    case = replace(CASES["long"], dtype=dtype)
    check_dense(kernels, isa, serve, case, case.block * case.n_blocks)


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("name", ["whole tiles", "parts of tiles, sinks", "long"])
def test_however_a_sequence_is_cut(kernels: Kernels, name: str, dtype: torch.dtype) -> None:
    check_cuts(kernels, serve, replace(CASES[name], dtype=dtype))


def test_what_is_no_number_stays_in_its_sequence(kernels: Kernels) -> None:
    """A block with a NaN in the indexer's keys is chosen first."""
    case = CASES["whole tiles"]
    assert check_what_is_no_number(kernels, serve, case, "index_inputs", 1, 0, (20, 3)).isfinite().all()


def refusals(kernels: Kernels) -> dict[str, Callable[[], object]]:
    program = kernels.program("plain")
    q, k, out = (program.buffer(width) for width in (32, 16, 16))
    ones, short = kernels.vector(torch.ones(16)), kernels.vector(torch.ones(15))

    def choose(**changes: object) -> object:
        fields = {
            "n_heads": 2, "block": 4, "n_blocks": 3, "n_local": 1, "q": q, "k": k, "q_norm": ones, "k_norm": ones,
            "eps": EPS, "rotary": 0, "rotary_half": 4, "layer": 0, "keys": IndexKeys(16),
        }  # fmt: skip
        return select_blocks(program, **{**fields, **changes})

    return {
        "no blocks": lambda: choose(n_blocks=0),
        "blocks of nothing": lambda: choose(block=0),
        "more positions than can be": lambda: choose(block=1 << 20, n_blocks=1 << 20),
        "not the row's own block": lambda: choose(n_local=0),
        "more local blocks than blocks": lambda: choose(n_local=4),
        "no heads": lambda: choose(n_heads=0),
        "queries of another width": lambda: choose(q=k),
        "keys of another width": lambda: choose(k=q),
        "a norm of another width": lambda: choose(q_norm=short),
        "another norm of another width": lambda: choose(k_norm=short),
        "more pairs than channels": lambda: choose(rotary_half=9),
        "another layer": lambda: choose(layer=1),
        "a choice that nobody makes": lambda: program.attention(0, Heads(2, 1, 8), out, out, most=12),
    }


def test_four_bits_are_refused(kernels: Kernels) -> None:
    """Of the indexer's keys, and of what it chooses."""
    with pytest.raises(ValueError, match="8 bits"):
        new_layer_cache(kernels.extension, IndexKeys(16), 16, INT4)
    program, heads = kernels.program("plain"), Heads(2, 1, 8)
    q, k, index_q = (program.buffer(width) for width in (16, 8, 16))
    ones = kernels.vector(torch.ones(16))
    program.rope(0, heads, q, k, k, rotary=None)
    select_blocks(
        program, 1, IndexKeys(16), n_heads=1, block=4, n_blocks=3, n_local=1, q=index_q, k=index_q, q_norm=ones,
        k_norm=ones, eps=EPS, rotary=None,
    )  # fmt: skip
    new = partial(new_layer_cache, kernels.extension)
    with pytest.raises(ValueError, match="8 bits"):
        program.bind_cache([new(heads, 16, INT4), new(IndexKeys(16), 16, torch.int8)])
    program.bind_cache([new(heads, 16, torch.int8), new(IndexKeys(16), 16, torch.int8)])


def test_dual_chunks_choose_nothing(kernels: Kernels) -> None:
    program, heads = kernels.program("plain"), Heads(2, 1, 8)
    q, index = program.buffer(16), program.buffer(16)
    ones = kernels.vector(torch.ones(16))
    select_blocks(
        program, 0, IndexKeys(16), n_heads=1, block=4, n_blocks=3, n_local=1, q=index, k=index, q_norm=ones,
        k_norm=ones, eps=EPS, rotary=None,
    )  # fmt: skip
    with pytest.raises(ValueError, match="dual chunks"):
        program.attention(0, heads, q, q, most=12, chunk=4, further=(q, q))


def test_refusals(kernels: Kernels) -> None:
    check_refusals(refusals(kernels))
