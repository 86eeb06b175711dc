"""What the tests of choices of positions in C++ share: what caches hold of keys, and what every choice promises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from cpu_steps import Kernels, assert_near, assert_same
from cut_sequences import at_once, at_random
from torch import Tensor

from landrace.kernels.layer_cache import LayerCache

Serve = Callable[..., tuple[list[Tensor], list[LayerCache]]]
"""serve(kernels, isa, threads, case, schedule): a case's results by sequence, and its caches, the layer's own first."""
ROUNDING = {torch.float32: 0.0, torch.float16: 1 / 2000, torch.bfloat16: 1 / 250, torch.int8: 1 / 250}


def index_rows(index: LayerCache, width: int) -> Tensor:
    """What an indexer's cache holds: float64 [n_slots, channels], the first `width` of them keys."""
    rows = index.keys.double().transpose(2, 3).flatten(0, 2)
    for part, scales in ((rows[:, :width], index.key_scales), (rows[:, width:], index.value_scales)):
        if scales is not None:
            part *= scales.view(-1, 1)
    return rows


def assert_kept(kept: Tensor, expected: Tensor, dtype: torch.dtype, beside: float = 4e-6) -> None:
    """What a cache holds of rows, but for its rounding and so much of what is computed."""
    size = expected.abs().amax(1, keepdim=True) if dtype == torch.int8 else expected.abs()
    assert_near(kept, expected, ROUNDING[dtype] * size + beside * (1 + expected.abs()), 1.0)


def check_cuts(kernels: Kernels, serve: Serve, case: Any) -> None:
    """At once, alone and in random steps: the same to the bit, on any threads and instructions."""
    schedules = [[[(s, 0, n)] for s, n in enumerate(case.lengths)], at_random(case, 1, 150)]

    def compute(isa: str, threads: int) -> Tensor:
        out, caches = serve(kernels, isa, threads, case, at_once(case))
        whole = torch.cat(out)
        assert whole.isfinite().all()
        for schedule in schedules:
            other, others = serve(kernels, isa, threads, case, schedule)
            assert torch.equal(torch.cat(other), whole)
            for one, same in zip(others[1:], caches[1:], strict=True):
                assert_same(one.keys, same.keys)
        return whole

    kernels.same_everywhere(compute)


def check_dense(kernels: Kernels, isa: str, serve: Serve, case: Any, onset: int) -> None:
    """Before its onset a choice has the bits of dense attention, and from there on it has not."""
    chosen, _ = serve(kernels, isa, 3, case, at_once(case))
    dense, _ = serve(kernels, isa, 3, case, at_once(case), dense=True)
    for own, whole in zip(chosen, dense, strict=True):
        assert torch.equal(own[:onset], whole[:onset])
        assert all(not torch.equal(*rows) for rows in zip(own[onset:], whole[onset:], strict=True))


def check_what_is_no_number(
    kernels: Kernels, serve: Serve, case: Any, made_by: str, which: int, s: int, at: tuple[int, ...], most: int = 30
) -> Tensor:
    """With a NaN `at` a position of sequence s, in input `which` of those that a method of the case makes, no other
    sequence and no row before it feels it. The sequence's results."""
    clean, _ = serve(kernels, "plain", 1, case, at_once(case))
    inputs = getattr(case, made_by)()
    inputs[which][s][at] = math.nan
    spoiled = with_inputs(case, made_by, inputs)
    out, whole = (serve(kernels, "plain", 2, spoiled, cut)[0] for cut in (at_random(case, 1, most), at_once(case)))
    assert_same(torch.cat(out), torch.cat(whole))
    assert all(torch.equal(out[other], clean[other]) for other in range(len(clean)) if other != s)
    assert torch.equal(out[s][: at[0]], clean[s][: at[0]])
    return out[s]


def with_inputs(case: Any, made_by: str, inputs: Any) -> Any:
    """The case with a method that makes these."""
    changed = replace(case)
    object.__setattr__(changed, made_by, lambda: inputs)
    return changed


def check_refusals(refusals: Mapping[str, Callable[[], object]]) -> None:
    for name, act in refusals.items():
        with pytest.raises(ValueError):
            act()
            pytest.fail(name)
