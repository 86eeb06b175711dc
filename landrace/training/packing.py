"""Which examples each optimizer step sees, and how they are laid out in forward passes. Pure functions of the options,
so a run that stops needs to remember nothing but its step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.training.examples import Example


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step: which pass over the data it belongs to and the examples it takes."""

    epoch: int
    indices: tuple[int, ...]
    ends_epoch: bool


class Order:
    """The examples of every step of a run: each epoch a new shuffle by (seed, epoch), cut into steps of
    `batch_examples`; the last step of an epoch takes what is left."""

    def __init__(self, n_examples: int, *, batch_examples: int, epochs: int, seed: int, max_steps: int | None) -> None:
        self._n_examples = n_examples
        self._batch = batch_examples
        self._seed = seed
        self._steps_per_epoch = -(-n_examples // batch_examples)
        steps = self._steps_per_epoch * epochs
        self.total_steps = steps if max_steps is None else min(steps, max_steps)
        self._shuffled = lru_cache(maxsize=1)(self._shuffle)

    def step(self, step: int) -> StepPlan:
        """Step `step`, counted from 0."""
        epoch, at = divmod(step, self._steps_per_epoch)
        indices = self._shuffled(epoch)[at * self._batch : (at + 1) * self._batch]
        return StepPlan(epoch, indices, ends_epoch=at + 1 == self._steps_per_epoch)

    def _shuffle(self, epoch: int) -> tuple[int, ...]:
        indices = list(range(self._n_examples))
        random.Random(f"{self._seed}/{epoch}").shuffle(indices)
        return tuple(indices)


@dataclass(frozen=True)
class MicroBatch:
    """Whole examples end to end, and what their loss is taken on."""

    batch: ForwardBatch
    """Its `logit_rows` [R] are the rows that predict a trained token."""
    targets: Tensor
    """[R] int64: those tokens."""

    @property
    def tokens(self) -> int:
        return self.batch.token_ids.numel()


def pack(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Groups of indices into `lengths`, each of at most `most_tokens` in sum (a single longer one stands alone).

    Neighbours in length go together, because attention pads within a pass.
    """
    groups: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i), reverse=True):
        if not groups or tokens + lengths[index] > most_tokens:
            groups.append([])
            tokens = 0
        groups[-1].append(index)
        tokens += lengths[index]
    return groups


def micro_batches(
    examples: Sequence[Example],
    most_tokens: int,
    *,
    device: str | torch.device = "cpu",
    adapters: tuple[AdapterRows, ...] = (),
) -> list[MicroBatch]:
    """The forward passes that together compute the loss of `examples`."""
    groups = pack([len(example.token_ids) for example in examples], most_tokens)
    return [_micro_batch([examples[i] for i in group], device, adapters) for group in groups]


def _micro_batch(
    examples: Sequence[Example], device: str | torch.device, adapters: tuple[AdapterRows, ...]
) -> MicroBatch:
    starts = accumulate((len(example.token_ids) for example in examples), initial=0)
    rows: list[int] = []
    targets: list[int] = []
    for start, example in zip(starts, examples, strict=False):
        for i in range(1, len(example.token_ids)):
            if example.trained[i]:
                rows.append(start + i - 1)
                targets.append(example.token_ids[i])
    batch = ForwardBatch.packed(
        [list(example.token_ids) for example in examples],
        device=device,
        logit_rows=torch.tensor(rows, dtype=torch.long, device=device),
        adapters=adapters,
    )
    return MicroBatch(batch, torch.tensor(targets, dtype=torch.long, device=device))
