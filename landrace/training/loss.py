"""Cross-entropy and log-probabilities of chosen tokens, with the [rows, vocabulary] logits held a slice at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from landrace.errors import OptionError
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.decoder import Decoder
from landrace.training.packing import MicroBatch, pack

Logits = Callable[[Tensor], Tensor]

LOGIT_ROWS = 512
"""Rows whose logits exist at once: 100 MB in float32 for a vocabulary of 50,000."""


def backward_loss(decoder: Decoder, micro: MicroBatch, *, divisor: float) -> float:
    """Adds the gradients of sum(-log p(target)) / divisor to the parameters' `.grad`; returns the undivided sum.

    The output layer is differentiated slice by slice into a copy of the hidden rows, whose collected gradient then
    goes through the layers once: the logits are neither kept nor computed twice.
    """
    total = 0.0
    slices: list[Tensor] = []

    def differentiate_head(hidden: Tensor, logits: Logits) -> Tensor:
        nonlocal total
        slices.extend(part.requires_grad_() for part in torch.split(hidden.detach(), LOGIT_ROWS))
        for part, targets in zip(slices, torch.split(micro.targets, LOGIT_ROWS), strict=True):
            loss = cross_entropy(logits(part), targets, reduction="sum")
            (loss / divisor).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return hidden

    hidden = decoder(micro.batch, reduce=differentiate_head)
    hidden.backward(torch.cat([_gradient(part) for part in slices]))
    return total


def _gradient(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


@torch.no_grad()
def loss_sum(decoder: Decoder, micro: MicroBatch) -> float:
    """sum(-log p(target)) over a micro-batch, without gradients."""
    return -_chosen_logprobs(decoder, micro.batch, micro.targets).double().sum().item()


@torch.no_grad()
def token_logprobs(
    decoder: Decoder,
    sequences: Sequence[Sequence[int]],
    *,
    first: Sequence[int] | None = None,
    adapters: tuple[AdapterRows, ...] = (),
    most_tokens: int = 2048,
) -> list[Tensor]:
    """log p(token i | tokens before i) of each sequence for i from `first[s]` (at least 1; default 1) to its end.

    One float32 tensor [len - first] a sequence, in order, computed by packed passes of at most `most_tokens` tokens.
    """
    begins = [1] * len(sequences) if first is None else list(first)
    if len(begins) != len(sequences):
        raise OptionError(f"first has {len(begins)} entries for {len(sequences)} sequences.")
    for ids, begin in zip(sequences, begins, strict=True):
        if not 1 <= begin <= len(ids):
            raise OptionError(
                f"first is {begin} for a sequence of {len(ids)} tokens; the first token has no probability."
            )
    results: list[Tensor] = [torch.empty(0)] * len(sequences)
    for group in pack([len(ids) for ids in sequences], most_tokens):
        for index, part in zip(group, _group_logprobs(decoder, group, sequences, begins, adapters), strict=True):
            results[index] = part
    return results


def _group_logprobs(
    decoder: Decoder,
    group: Sequence[int],
    sequences: Sequence[Sequence[int]],
    begins: Sequence[int],
    adapters: tuple[AdapterRows, ...],
) -> list[Tensor]:
    rows: list[int] = []
    targets: list[int] = []
    start = 0
    for index in group:
        ids, begin = sequences[index], begins[index]
        rows += range(start + begin - 1, start + len(ids) - 1)
        targets += ids[begin:]
        start += len(ids)
    batch = ForwardBatch.packed(
        [list(sequences[index]) for index in group],
        device=decoder.device,
        logit_rows=torch.tensor(rows, dtype=torch.long, device=decoder.device),
        adapters=adapters,
    )
    chosen = _chosen_logprobs(decoder, batch, torch.tensor(targets, dtype=torch.long, device=decoder.device))
    return list(torch.split(chosen, [len(sequences[index]) - begins[index] for index in group]))


def _chosen_logprobs(decoder: Decoder, batch: ForwardBatch, targets: Tensor) -> Tensor:
    """log p of targets [R] at the batch's logit rows, float32 [R]."""

    def chosen(hidden: Tensor, logits: Logits) -> Tensor:
        slices = zip(torch.split(hidden, LOGIT_ROWS), torch.split(targets, LOGIT_ROWS), strict=True)
        return torch.cat([-cross_entropy(logits(rows), wanted, reduction="none") for rows, wanted in slices])

    logprobs: Tensor = decoder(batch, reduce=chosen)
    return logprobs
