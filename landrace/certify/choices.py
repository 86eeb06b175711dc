"""The experts that one path chooses, for the reference to follow.

Where a router is near a tie, arithmetic that rounds otherwise chooses another expert. Neither choice is wrong, but the
sums that follow are of different terms, and their difference tells nothing of the arithmetic. So the reference follows
the choices of the path that it is compared with, and how often it would have made them itself is a figure of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from landrace.certify.certificate import Scores
from landrace.certify.engine_path import Adapter, engine_of
from landrace.engine import EngineOptions, SamplingParams
from landrace.kernels.reference.routing import Routing, route
from landrace.kernels.router import Router
from landrace.model import Model
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.cpu_decoder import CpuDecoder
from landrace.models.decoder import Decoder
from landrace.models.ffn_spec import Moe
from landrace.models.params import RouterWeights
from landrace.models.reference_ops import ReferenceOps
from landrace.models.spec import ModelSpec

Sequences = Sequence[tuple[int, ...]]
Heard = list[Tensor]
"""The logits of each router, in the order of the layers, for the tokens of one sequence: [T, n_experts]."""


def has_routers(spec: ModelSpec) -> bool:
    return any(isinstance(layer.ffn, Moe) for layer in spec.layers)


class _HearingOps(ReferenceOps):
    """Keeps the routers' logits."""

    def __init__(self, decoder: Decoder, batch: ForwardBatch) -> None:
        super().__init__(batch, decoder.adapters, decoder.product_dtype, None)
        self.heard: Heard = []

    def routing(self, logits: Tensor, weights: RouterWeights, router: Router) -> Routing:
        self.heard.append(logits)
        return super().routing(logits, weights, router)


class _FollowingOps(ReferenceOps):
    """Goes to the experts that other logits choose, and weighs them by its own."""

    def __init__(self, decoder: Decoder, batch: ForwardBatch, heard: Heard) -> None:
        super().__init__(batch, decoder.adapters, decoder.product_dtype, None)
        self._heard = iter(heard)
        self.equal: list[bool] = []
        """Of each choice of an expert, whether it would have been made here."""

    def routing(self, logits: Tensor, weights: RouterWeights, router: Router) -> Routing:
        heard = next(self._heard)
        own, theirs = (
            super(_FollowingOps, self).routing(of, weights, router).experts
            for of in (logits, torch.cat([heard, logits[len(heard) :]]))
        )
        self.equal += (theirs[:, :, None] == own[:, None, :]).any(-1).flatten().tolist()
        return route(logits, router, chosen=theirs)


@contextmanager
def adapted(decoder: Decoder, adapter: Adapter | None) -> Iterator[tuple[AdapterRows, ...]]:
    """The adapter beside the decoder: what batches say of it."""
    if adapter is None:
        yield ()
        return
    place = decoder.add_adapter(*adapter)
    try:
        yield (AdapterRows(place, None),)
    finally:
        decoder.remove_adapter(place)


@torch.no_grad()
def hear_trainer(decoder: Decoder, sequences: Sequences, adapter: Adapter | None) -> tuple[list[Scores], list[Heard]]:
    """The trainer's scores, and what its routers said."""
    scores, heard = [], []
    with adapted(decoder, adapter) as rows:
        for ids in sequences:
            ops = _HearingOps(decoder, ForwardBatch.packed([list(ids)], device=decoder.device, adapters=rows))
            scores.append(_scores(decoder, ops, ids))
            heard.append(ops.heard)
    return scores, heard


def hear_served(model: Model[CpuDecoder], sequences: Sequences, adapter: Adapter | None) -> list[Heard]:
    """What the served model's routers say of each sequence. They say the same of it in any batch, and however it is
    cut: that is compared elsewhere."""
    steps: Heard = []
    found = []
    n_routers = sum(isinstance(layer.ffn, Moe) for layer in model.decoder.spec.layers)
    params = SamplingParams(max_tokens=0, prompt_logprobs_from=1)
    model.decoder.hear_routers(steps.append)
    try:
        with engine_of(model, adapter, EngineOptions(prefix_cache=False)) as complete:
            for ids in sequences:
                steps.clear()
                complete([(ids, params)])
                found.append([torch.cat(steps[n::n_routers]) for n in range(n_routers)])
    finally:
        model.decoder.hear_routers(None)
    return found


@torch.no_grad()
def follow(
    decoder: Decoder, sequences: Sequences, adapter: Adapter | None, heard: Sequence[Heard]
) -> tuple[list[Scores], float]:
    """The decoder's scores with the experts that were `heard`, and the share of those choices that are its own."""
    scores, equal = [], []
    with adapted(decoder, adapter) as rows:
        for ids, said in zip(sequences, heard, strict=True):
            ops = _FollowingOps(decoder, ForwardBatch.packed([list(ids)], device=decoder.device, adapters=rows), said)
            scores.append(_scores(decoder, ops, ids))
            equal += ops.equal
    return scores, sum(equal) / len(equal)


def _scores(decoder: Decoder, ops: ReferenceOps, ids: tuple[int, ...]) -> Scores:
    logits = decoder.compute(ops)[:-1].float()
    logprobs = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:], device=logits.device)[:, None])[:, 0]
    return Scores(logprobs.tolist(), logits.argmax(-1).tolist())
