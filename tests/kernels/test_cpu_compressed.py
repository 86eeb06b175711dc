"""Compressed rows in C++: near the reference at published sizes, in every type of cache, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cpu_steps import Kernels
from torch import Tensor

from landrace.kernels.cpu.cache import CompressionInputs, IndexKeys, Latents, new_layer_cache
from landrace.kernels.cpu.compressed import attend_compressed, compress, keep_inputs, keep_row, select_compressed
from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.step import Rotary, StepInput
from landrace.kernels.layer_cache import GroupView, LayerCache
from landrace.kernels.mask import Sliding
from landrace.kernels.reference.compression import compressed
from landrace.kernels.reference.dense import rms_norm
from landrace.kernels.reference.pools import closing
from landrace.kernels.reference.rotary import rotate_pairs

EPS = 1e-3
SIZES = {
    "a row for every 128": (Latents(2, 512, 0), 128, 1, 32),
    "a row for every 4, overlapping": (Latents(2, 512, 0), 4, 2, 32),
    "an indexer's": (IndexKeys(128), 4, 2, 32),
    "of odd sizes": (Latents(3, 21, 0), 3, 2, 5),
}
TYPES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.int8: 2e-2}


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def step_of(n: int, ratio: int, half: int) -> tuple[StepInput, int]:
    """A whole sequence, and how many slots it takes in both groups."""
    rows, n_slots = torch.arange(n), -(-n // 16) * 16
    angles = rows[:, None] * torch.linspace(1.0, 0.01, half)
    whole = GroupView(rows, [rows], (0,))
    return StepInput(
        token_ids=torch.zeros(n, dtype=torch.long),
        positions=rows,
        starts=(0, n),
        groups=(whole, whole.of_entries(ratio)),
        logit_rows=torch.empty(0, dtype=torch.long),
        rotary=(Rotary(angles.cos(), angles.sin(), rows),),
    ), n_slots


def values_of(cache: LayerCache, shape: Latents | IndexKeys, n: int) -> Tensor:
    """The first n rows of a cache, float32 [n, channels]."""
    if isinstance(shape, Latents):
        found = cache.keys.flatten(0, 1)[:n, : shape.rank].float()
        scales = cache.value_scales
    else:
        found = cache.keys[:, 0].transpose(1, 2).flatten(0, 1)[:n].float()
        scales = cache.key_scales
    return found if scales is None else found * scales.flatten()[:n, None]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", SIZES)
def test_rows_are_those_of_the_reference(size: str, dtype: torch.dtype, kernels: Kernels) -> None:
    shape, ratio, parts, half = SIZES[size]
    width = shape.rank if isinstance(shape, Latents) else shape.head_dim
    inputs, n = CompressionInputs(2 * parts * width), 2 * ratio + 1 if ratio > 100 else 9 * ratio + 2
    values, gates = random(n, parts * width, seed=1), 3 * random(n, parts * width, seed=2)
    bias, norm = random(ratio, parts * width, seed=3), 1 + random(width, seed=4) / 4
    step, n_slots = step_of(n, ratio, half)
    (starts, seen), positions = (step.starts, step.groups[0].sequence_slots), step.positions
    own = closing(positions, starts, seen, (0,), ratio, parts * ratio)
    sums = compressed(values[own.sources], gates[own.sources], bias, own.there)
    first = own.rows + 1 - ratio
    expected = rotate_pairs(rms_norm(sums, norm, EPS)[:, None], step.rotary[0].cos[first], step.rotary[0].sin[first])[
        :, 0
    ]
    found = []
    for isa in kernels.extension.instruction_sets():
        program = kernels.program(isa)
        at = [program.buffer(parts * width) for _ in range(2)]
        keep_inputs(program, 0, inputs, *at)
        compress(
            program, 1, shape, inputs=0, width=inputs.width, ratio=ratio, bias=kernels.vector(bias.flatten()),
            norm=kernels.vector(norm), eps=EPS, rotary=0, rotary_half=half, group=1,
        )  # fmt: skip
        caches = [new_layer_cache(kernels.extension, one, n_slots, dtype) for one in (inputs, shape)]
        program.bind_cache(caches)
        for buffer, rows in zip(at, (values, gates), strict=True):
            program.write(buffer, rows)
        program.run(step, 2)
        found.append(values_of(caches[1], shape, n // ratio))
    assert torch.allclose(found[0], expected, atol=TYPES[dtype] * expected.abs().max().item())
    assert all(torch.equal(one, found[0]) for one in found)


Change = Callable[[Program, dict[str, Any]], None]
SHAPE, KEYS, INPUTS = Latents(2, 16, 0), IndexKeys(16), CompressionInputs(64)


def recorded(kernels: Kernels, **changes: Any) -> None:
    """A layer's operations, with `changes` to some of their fields."""
    program = kernels.program("plain")
    row, values, gates, q, out, weights = (program.buffer(width) for width in (16, 32, 32, 32, 32, 4))
    index_q = program.buffer(64)
    ones = {n: kernels.vector(torch.ones(n)) for n in (2, 3, 16, 17, 64, 128)}
    turns = {"rotary": 0, "rotary_half": 4}
    fields: dict[str, Any] = {
        "keep_row": {"norm": ones[16], **turns},
        "compress": {"norm": ones[16], "bias": ones[128], "ratio": 4, "width": 64, **turns},
        "select": {"most": 3, "ratio": 4},
        "attend": {"ratio": 4, "most": 3, "sinks": ones[2], "mask": Sliding(5)},
        "turn": turns,
    }
    for name, change in changes.items():
        fields[name] |= {
            key: ones[value] if key in ("norm", "bias", "sinks") else value for key, value in change.items()
        }
    keep_row(program, 0, SHAPE, row, eps=EPS, **fields["keep_row"])
    keep_inputs(program, 1, INPUTS, values, gates)
    compress(program, 2, SHAPE, inputs=1, eps=EPS, group=1, **fields["compress"])
    keep_inputs(program, 3, INPUTS, values, gates)
    compress(program, 4, KEYS, inputs=3, eps=EPS, group=1, **fields["compress"])
    select_compressed(program, 4, KEYS, n_heads=4, q=index_q, weights=weights, **fields["select"])
    attend_compressed(program, 0, 2, SHAPE, q, out, **fields["attend"])
    program.turn_pairs(out, 2, 16, back=True, **fields["turn"])


REFUSED: dict[str, dict[str, Any]] = {
    "a norm of another width": {"keep_row": {"norm": 17}},
    "more pairs than channels": {"turn": {"rotary_half": 9}},
    "inputs that are no parts of rows": {"compress": {"width": 48}},
    "a bias that is not for each place": {"compress": {"bias": 64}},
    "rows of one position": {"compress": {"ratio": 1}},
    "another sink": {"attend": {"sinks": 3}},
    "a choice that nobody makes": {"attend": {"most": 4}},
    "a window of nothing": {"attend": {"mask": Sliding(0)}},
    "nothing chosen": {"select": {"most": 0}},
    "keys of one position without any": {"select": {"ratio": 1}},
}


def test_what_the_refusals_start_from(kernels: Kernels) -> None:
    recorded(kernels)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, kernels: Kernels) -> None:
    with pytest.raises(ValueError):
        recorded(kernels, **REFUSED[case])


def test_a_group_of_other_entries_is_refused(kernels: Kernels) -> None:
    program = kernels.program("plain")
    values, gates = (program.buffer(32) for _ in range(2))
    keep_inputs(program, 0, INPUTS, values, gates)
    ones = kernels.vector(torch.ones(128)), kernels.vector(torch.ones(16))
    compress(
        program, 1, SHAPE, inputs=0, width=64, ratio=4, bias=ones[0], norm=ones[1], eps=EPS, rotary=0, rotary_half=4,
        group=1,
    )  # fmt: skip
    program.bind_cache([new_layer_cache(kernels.extension, one, 32, torch.float32) for one in (INPUTS, SHAPE)])
    step, _ = step_of(20, 3, 4)
    with pytest.raises(IndexError, match="entries"):
        program.run(step)
