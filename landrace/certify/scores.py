"""`Scores`: one path's view of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

NEXT = 3
"""So many tokens are kept behind the likeliest one."""


@dataclass(frozen=True)
class Scores:
    """For every scored token its log-probability, and the likeliest token there."""

    logprobs: list[float]
    argmax: list[int]
    behind: list[dict[int, float]] = field(default_factory=list)
    """The next tokens after the likeliest, and by how much they are less likely; empty where a path does not say."""


def scores_of(logits: Tensor, ids: Sequence[int], logprobs: list[float] | None = None) -> Scores:
    """Of logits [T, vocabulary] of a whole sequence. `logprobs`: where they are known already."""
    found = logits[:-1].float().log_softmax(-1)
    if logprobs is None:
        logprobs = found.gather(1, torch.tensor(ids[1:], device=found.device)[:, None])[:, 0].tolist()
    best = found.topk(min(NEXT + 1, found.shape[1]))
    tokens, gaps = best.indices.tolist(), (best.values[:, :1] - best.values).tolist()
    behind = [dict(zip(some[1:], far[1:], strict=True)) for some, far in zip(tokens, gaps, strict=True)]
    return Scores(logprobs, found.argmax(-1).tolist(), behind)
