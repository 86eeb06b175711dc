"""Sequences that are served in steps, cut anywhere, through a program."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.step import Rotary, StepInput
from landrace.kernels.layer_cache import GroupView
from landrace.kernels.mask import Mask

TILE = 16

Step = list[tuple[int, int, int]]
"""(sequence, first position, end) of each sequence in a step."""


class Sequences(Protocol):
    """What a test is about."""

    @property
    def lengths(self) -> tuple[int, ...]: ...
    @property
    def mask(self) -> Mask: ...
    @property
    def half(self) -> int:
        """Pairs of channels that turn."""
        ...

    def angles(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines [positions, half]."""
        ...


def slots_of(lengths: Sequence[int]) -> tuple[list[Tensor], int]:
    """Shuffled blocks of sixteen for each sequence, among others that nobody has; and how many slots there are."""
    n_tiles = [-(-n // TILE) for n in lengths]
    tiles = torch.randperm(sum(n_tiles) + 5, generator=torch.Generator().manual_seed(9)).split([*n_tiles, 5])
    own = [(t[:, None] * TILE + torch.arange(TILE)).flatten()[:n] for t, n in zip(tiles, lengths, strict=False)]
    return own, (sum(n_tiles) + 5) * TILE


def angles(positions: int, half: int) -> tuple[Tensor, Tensor]:
    turns = torch.rand(positions, half, generator=torch.Generator().manual_seed(4)) * 6
    return turns.cos(), turns.sin()


def run_steps(
    program: Program,
    threads: int,
    case: Sequences,
    schedule: Sequence[Step],
    inputs: Mapping[int, Sequence[Tensor]],
    outputs: Sequence[int],
    entries: int | None = None,
) -> list[list[Tensor]]:
    """Computes all steps: `inputs` are what buffers hold before each, by sequence [length, ...]; of each of the
    `outputs` what they hold after it, by sequence [length, width]. Rows that nobody has written are NaN. `entries`:
    there is a second cache group, of entries of so many positions, in the first slots of each sequence."""
    slots, _ = slots_of(case.lengths)
    cos, sin = case.angles()
    most = max(sum(end - first for _, first, end in step) for step in schedule) + 9
    nothing = {buffer: torch.full_like(program.read(buffer, most), math.nan) for buffer in {*inputs, *outputs}}
    found = [[torch.full((n, nothing[buffer].shape[1]), math.nan) for n in case.lengths] for buffer in outputs]
    for step in schedule:
        starts = [0]
        for _, first, end in step:
            starts.append(starts[-1] + end - first)
        for buffer, rows in nothing.items():
            program.write(buffer, rows)
        for buffer, whole in inputs.items():
            program.write(buffer, torch.cat([whole[s][first:end].flatten(1) for s, first, end in step]))
        positions = torch.cat([torch.arange(first, end) for _, first, end in step])
        # What no row sees any more has no slots.
        firsts = [max(0, case.mask.first_seen(first)) // TILE * TILE for _, first, _ in step]
        seen = [slots[s][oldest : max(end, 1)] for (s, _, end), oldest in zip(step, firsts, strict=True)]
        whole = GroupView(torch.cat([slots[s][first:end] for s, first, end in step]), seen, firsts)
        program.run(
            StepInput(
                token_ids=torch.zeros(starts[-1], dtype=torch.long),
                positions=positions,
                starts=starts,
                groups=[whole] if entries is None else [whole, whole.of_entries(entries)],
                logit_rows=torch.empty(0, dtype=torch.long),
                rotary=[Rotary(cos, sin, positions)] if case.half else [],
            ),
            threads,
        )
        for buffer, parts in zip(outputs, found, strict=True):
            rows = program.read(buffer, most)
            assert rows[starts[-1] :].isnan().all()
            for (s, first, end), start in zip(step, starts, strict=False):
                parts[s][first:end] = rows[start : start + end - first]
    return found


def at_once(case: Sequences) -> list[Step]:
    return [[(s, 0, n) for s, n in enumerate(case.lengths)]]


def one_by_one(case: Sequences, prefill: int) -> list[Step]:
    """All sequences side by side: `prefill` tokens, then one at a time."""
    steps = [[(s, 0, min(prefill, n)) for s, n in enumerate(case.lengths)]]
    for position in range(prefill, max(case.lengths)):
        steps.append([(s, position, position + 1) for s, n in enumerate(case.lengths) if position < n])
    return steps


def at_random(case: Sequences, seed: int, most: int) -> list[Step]:
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
