"""Which experts a token goes to, and what they are worth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from landrace.kernels.router import Router


@dataclass(frozen=True)
class Routing:
    """The experts of T tokens."""

    experts: Tensor
    """[T, top_k] int64: a token's experts in order of their numbers."""
    weights: Tensor
    """[T, top_k] float32: what each is worth."""


def route(
    logits: Tensor, router: Router, *, choice_bias: Tensor | None = None, chosen: Tensor | None = None
) -> Routing:
    """The experts of each token and what they are worth; gradients reach `logits` through the worth alone.

    logits [T, n_experts], read as float32; choice_bias [n_experts] float32 where the router has one; chosen [T, top_k]
    int64, the table's rows of the tokens, where they are chosen by token.
    """
    logits = logits.float()
    scores = _scores(logits, router)
    if chosen is None:
        chosen = _choose(scores.detach() if choice_bias is None else scores.detach() + choice_bias, router)
    experts = chosen.sort(dim=-1).values
    weights = scores.gather(1, experts)
    match router.score:
        case "softmax_of_chosen":
            weights = weights.softmax(-1)
        case "sigmoid_of_chosen":
            weights = weights.sigmoid()
    if router.renorm:
        weights = weights / (weights.sum(-1, keepdim=True).clamp(min=router.renorm_floor) + router.renorm_added)
    return Routing(experts, weights * router.scale)


def _scores(logits: Tensor, router: Router) -> Tensor:
    match router.score:
        case "softmax":
            return logits.softmax(-1)
        case "sigmoid":
            return logits.sigmoid()
        case "sqrt_softplus":
            return F.softplus(logits).sqrt()
        case "softmax_of_chosen" | "sigmoid_of_chosen":
            return logits


def _choose(scores: Tensor, router: Router) -> Tensor:
    """[T, top_k] the experts with the best scores [T, n_experts] among those of the best groups."""
    if router.n_groups > 1:
        grouped = scores.view(scores.shape[0], router.n_groups, scores.shape[1] // router.n_groups)
        best = grouped.topk(1 if router.group_score == "max" else 2, dim=-1).values.sum(-1)
        left = torch.ones_like(best, dtype=torch.bool).scatter(1, _best(best, router.top_groups), False)
        scores = grouped.masked_fill(left[:, :, None], -torch.inf).view_as(scores)
    return _best(scores, router.top_k)


def _best(values: Tensor, n: int) -> Tensor:
    """[T, n] where the n greatest of each row are, of equal ones the first (torch.topk promises no order)."""
    return values.sort(dim=-1, descending=True, stable=True).indices[:, :n]
