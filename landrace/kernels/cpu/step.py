"""What a program computes at a time: a step's tensors, checked, and the kernels' own view of them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from landrace.kernels.cpu.checks import check_tensor
from landrace.kernels.layer_cache import GroupView


@dataclass(frozen=True)
class Rotary:
    """Angles of one kind of rotation: row i of a step turns by row `rows[i]` of the tables."""

    cos: Tensor
    """[table rows, rotary_dim / 2] float32, like `sin`."""
    sin: Tensor
    rows: Tensor
    """[T] int64."""


@dataclass(frozen=True)
class StepInput:
    """One step. Tensors are contiguous int64 on the CPU."""

    token_ids: Tensor
    """[T]."""
    positions: Tensor
    """[T]: consecutive within a sequence."""
    starts: Sequence[int]
    """S + 1 row indices: sequence s owns rows starts[s] to starts[s + 1]."""
    groups: Sequence[GroupView]
    """By cache group. Blocks are whole tiles: first positions are multiples of sixteen."""
    logit_rows: Tensor
    """[R]."""
    rotary: Sequence[Rotary] = ()
    adapter_rows: Sequence[Sequence[int]] = ()
    """By adapter slot: the rows that use it."""
    states: Tensor | None = None
    """[S, 4], where layers have states: see `StateView`."""
    token_types: Tensor | None = None
    """[T]: which of a pair of texts each token is of; None: the first."""


class NativeStep:
    """The kernels' own view of a step, `handle`, and what it points to beside the step's tensors and `logits`.

    `rotary_halves`: by table of angles, how many pairs of channels turn. ValueError for tensors of other types or
    shapes, and for rows, sequences and tables that do not match.
    """

    def __init__(self, native: ModuleType, step: StepInput, rotary_halves: Sequence[int], logits: Tensor) -> None:
        n_rows, n_sequences = step.token_ids.numel(), len(step.starts) - 1
        check_tensor(step.token_ids, torch.int64, (n_rows,), "token_ids")
        check_tensor(step.positions, torch.int64, (n_rows,), "positions")
        check_tensor(step.logit_rows, torch.int64, (step.logit_rows.numel(),), "logit_rows")
        if step.starts[0] != 0 or step.starts[-1] != n_rows:
            raise ValueError(f"{n_rows} rows do not go from {step.starts[0]} to {step.starts[-1]}.")
        if step.states is not None:
            check_tensor(step.states, torch.int64, (n_sequences, 4), "states")
        if step.token_types is not None:
            check_tensor(step.token_types, torch.int64, (n_rows,), "token_types")
        self._kept: list[array[int]] = [array("q", step.starts)]
        self.handle = native.Step(
            n_rows=n_rows,
            token_ids=step.token_ids.data_ptr(),
            positions=step.positions.data_ptr(),
            token_types=0 if step.token_types is None else step.token_types.data_ptr(),
            n_sequences=n_sequences,
            starts=self._kept[0].buffer_info()[0],
            groups=[self._group(group, n_rows, n_sequences) for group in step.groups],
            n_logit_rows=step.logit_rows.numel(),
            logit_rows=step.logit_rows.data_ptr(),
            rotary=_tables(step.rotary, rotary_halves, n_rows),
            adapter_rows=step.adapter_rows,
            states=0 if step.states is None else step.states.data_ptr(),
            logits=logits.data_ptr(),
        )

    def _group(self, group: GroupView, n_rows: int, n_sequences: int) -> tuple[int, ...]:
        """Where the kernels find its slots, their numbers and first positions, and the slots to write."""
        addresses, counts, firsts = array("Q"), array("q"), array("q", group.first_positions)
        if not len(group.sequence_slots) == len(firsts) == n_sequences:
            raise ValueError(f"{n_sequences} sequences and {len(group.sequence_slots)} lists of slots do not match.")
        for slots in group.sequence_slots:
            check_tensor(slots, torch.int64, (slots.numel(),), "slots")
            addresses.append(slots.data_ptr())
            counts.append(slots.numel())
        check_tensor(group.write_slots, torch.int64, (n_rows,), "write_slots")
        numbers = (addresses, counts, firsts)
        self._kept += numbers
        return (*(own.buffer_info()[0] for own in numbers), group.write_slots.data_ptr(), group.every)


def _tables(rotary: Sequence[Rotary], halves: Sequence[int], n_rows: int) -> list[tuple[int, int, int, int]]:
    """Where the kernels find cosines, sines and the rows' angles, and how many angles there are."""
    if len(rotary) != len(halves):
        raise ValueError(f"The program turns by {len(halves)} tables, not {len(rotary)}.")
    tables = []
    for one, half in zip(rotary, halves, strict=True):
        shape = (one.cos.shape[0], half)
        check_tensor(one.cos, torch.float32, shape, "cos")
        check_tensor(one.sin, torch.float32, shape, "sin")
        check_tensor(one.rows, torch.int64, (n_rows,), "rows of the angles")
        tables.append((one.cos.data_ptr(), one.sin.data_ptr(), one.rows.data_ptr(), shape[0]))
    return tables
