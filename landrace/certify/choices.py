"""The experts and the positions that one path chooses, for the reference to follow.

Where a router or an indexer is near a tie, arithmetic that rounds otherwise chooses another expert or another position.
Neither choice is wrong, but the sums that follow are of different terms, and their difference tells nothing of the
arithmetic. So the reference follows the choices of the path that it is compared with, and how often it would have made
them itself is a figure of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from landrace.certify.certificate import EqualChoices
from landrace.certify.engine_path import Adapter, engine_of
from landrace.certify.scores import Scores, scores_of
from landrace.engine import EngineOptions, SamplingParams
from landrace.kernels.reference.routing import Routing, route
from landrace.kernels.router import Router
from landrace.model import Model
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.compressed_spec import Compressed, Compression
from landrace.models.cpu_decoder import CpuDecoder
from landrace.models.decoder import Decoder
from landrace.models.ffn_spec import Moe
from landrace.models.mixer_spec import Gqa, Mla
from landrace.models.params import Norm, RouterWeights
from landrace.models.reference_ops import ReferenceOps
from landrace.models.selection_spec import MeanSelection
from landrace.models.spec import LayerSpec, ModelSpec

Sequences = Sequence[tuple[int, ...]]
Heard = list[tuple[Tensor, ...]]
"""What each choice is made of, in the order in which a pass makes them, for the tokens of one sequence: a router's
logits [T, n_experts], or queries and keys, an indexer's or the layer's, and weights if there are any, as `Ops` takes
them."""


def chooses(spec: ModelSpec) -> bool:
    """Whether a model's layers choose experts or positions."""
    return any(map(_n_choices, spec.layers))


def _n_choices(layer: LayerSpec) -> int:
    match layer.mixer:
        case (
            Mla(indexer=selection) | Gqa(selection=selection) | Compressed(compression=Compression(selection=selection))
        ):
            selects = selection is not None
        case _:
            selects = False
    return selects + isinstance(layer.ffn, Moe)


CHOOSING = {"select": 3, "select_blocks": 2, "select_pools": 2, "select_gated_pools": 4, "select_compressed": 4}
"""The operations that choose positions out of rows: how many of their arguments these are, behind the layer's spec and
its cache."""


class _HearingOps(ReferenceOps):
    """Keeps what choices are made of."""

    def __init__(self, decoder: Decoder, batch: ForwardBatch) -> None:
        super().__init__(batch, decoder.adapters, decoder.product_dtype, None)
        self.heard: Heard = []

    def routing(self, logits: Tensor, weights: RouterWeights, router: Router) -> Routing:
        self.heard.append((logits,))
        return super().routing(logits, weights, router)

    def keep(
        self, spec: Gqa, cache: int, q: Tensor, k: Tensor, v: Tensor, norms: tuple[Norm, Norm] | None, eps: float
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if isinstance(spec.selection, MeanSelection):
            self.heard.append((q, k))
        return super().keep(spec, cache, q, k, v, norms, eps)


class _FollowingOps(ReferenceOps):
    """Goes to the experts that other logits choose, and weighs them by its own; attends to the positions that other
    queries and keys choose."""

    def __init__(self, decoder: Decoder, batch: ForwardBatch, heard: Heard) -> None:
        super().__init__(batch, decoder.adapters, decoder.product_dtype, None)
        self._heard = iter(heard)
        self.equal_experts: list[bool] = []
        self.equal_positions: list[bool] = []
        """Of each choice of an expert or a position, whether it would have been made here."""

    def routing(self, logits: Tensor, weights: RouterWeights, router: Router) -> Routing:
        own = super().routing(logits, weights, router).experts
        (said,) = self.said(logits)
        theirs = super().routing(said, weights, router).experts
        self.equal_experts += (theirs[:, :, None] == own[:, None, :]).any(-1).flatten().tolist()
        return route(logits, router, chosen=theirs)

    def keep(
        self, spec: Gqa, cache: int, q: Tensor, k: Tensor, v: Tensor, norms: tuple[Norm, Norm] | None, eps: float
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if isinstance(spec.selection, MeanSelection):
            their_q, their_k = self.said(q, k)
            self._theirs = super().keep(spec, cache, their_q, their_k, v, norms, eps)
        return super().keep(spec, cache, q, k, v, norms, eps)

    def select_by_means(self, spec: Gqa, cache: int, q: Tensor, past: tuple[Tensor, Tensor]) -> None:
        super().select_by_means(spec, cache, q, past)
        own = self._chosen
        super().select_by_means(spec, cache, *self._theirs)
        self.count_positions(spec, own)

    def said(self, *own: Tensor) -> tuple[Tensor, ...]:
        """What was heard; one's own for the rows behind it, which that path did not compute."""
        heard = next(self._heard)
        return tuple(
            one if len(one) == len(mine) else torch.cat([one, mine[len(one) :]])
            for one, mine in zip(heard, own, strict=True)
        )

    def count_positions(self, spec: Gqa | Mla | Compressed, own: Sequence[Tensor]) -> None:
        """Of rows that do not attend to all they see."""
        if isinstance(spec, Compressed):
            seen = self._compressed_plan(spec)[1]
        else:
            seen = tuple(group.mask(spec.mask) for group in self._attention_plan(spec.cache).groups)
        for all_of_them, theirs, mine in zip(seen, self._chosen, own, strict=True):
            choosing = (all_of_them & ~theirs).any(-1, keepdim=True)
            self.equal_positions += mine[theirs & choosing].tolist()


def _hearing(choose: Callable[..., None], n_rows: int) -> Callable[..., None]:
    def heard(ops: _HearingOps, spec: Any, cache: int, *said: Any) -> None:
        ops.heard.append(said[:n_rows])
        choose(ops, spec, cache, *said)

    return heard


def _following(choose: Callable[..., None], n_rows: int) -> Callable[..., None]:
    def followed(ops: _FollowingOps, spec: Any, cache: int, *said: Any) -> None:
        choose(ops, spec, cache, *said)
        own = ops._chosen
        choose(ops, spec, cache, *ops.said(*said[:n_rows]), *said[n_rows:])
        ops.count_positions(spec, own)

    return followed


for _name, _n_rows in CHOOSING.items():
    setattr(_HearingOps, _name, _hearing(getattr(ReferenceOps, _name), _n_rows))
    setattr(_FollowingOps, _name, _following(getattr(ReferenceOps, _name), _n_rows))


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
    """The trainer's scores, and what its choices were made of."""
    scores, heard = [], []
    with adapted(decoder, adapter) as rows:
        for ids in sequences:
            ops = _HearingOps(decoder, ForwardBatch.packed([list(ids)], device=decoder.device, adapters=rows))
            scores.append(scores_of(decoder.compute(ops), ids))
            heard.append(ops.heard)
    return scores, heard


def hear_served(model: Model[CpuDecoder], sequences: Sequences, adapter: Adapter | None) -> list[Heard]:
    """What the served model's choices for each sequence are made of. They are the same in any batch, and however it is
    cut: that is compared elsewhere."""
    steps: Heard = []
    found: list[Heard] = []
    n_choices = sum(map(_n_choices, model.decoder.spec.layers))
    params = SamplingParams(max_tokens=0, prompt_logprobs_from=1)
    model.decoder.hear_choices(steps.append)
    try:
        with engine_of(model, adapter, EngineOptions(prefix_cache=False)) as complete:
            for ids in sequences:
                steps.clear()
                complete([(ids, params)])
                parts = (zip(*steps[n::n_choices], strict=True) for n in range(n_choices))
                found.append([tuple(map(torch.cat, each)) for each in parts])
    finally:
        model.decoder.hear_choices(None)
    return found


@torch.no_grad()
def follow(
    decoder: Decoder, sequences: Sequences, adapter: Adapter | None, heard: Sequence[Heard]
) -> tuple[list[Scores], EqualChoices]:
    """The decoder's scores with the choices that were `heard`, and the share of those that are its own."""
    scores: list[Scores] = []
    experts: list[bool] = []
    positions: list[bool] = []
    with adapted(decoder, adapter) as rows:
        for ids, said in zip(sequences, heard, strict=True):
            ops = _FollowingOps(decoder, ForwardBatch.packed([list(ids)], device=decoder.device, adapters=rows), said)
            scores.append(scores_of(decoder.compute(ops), ids))
            experts += ops.equal_experts
            positions += ops.equal_positions
    return scores, EqualChoices(_share(experts), _share(positions))


def _share(equal: list[bool]) -> float | None:
    """None where nothing was chosen."""
    return sum(equal) / len(equal) if equal else None
