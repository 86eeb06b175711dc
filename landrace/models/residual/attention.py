"""Attention residuals before one branch, or before the output head, for every backend."""

from __future__ import annotations

from torch import nn

from landrace.models.ops import Ops, X
from landrace.models.params import Norm, Vector
from landrace.models.spec import AttentionResiduals


class BlockAttention(nn.Module):
    def __init__(self, spec: AttentionResiduals, d_model: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.norm = Norm(d_model, eps) if spec.weighted_norm else None
        self.scores = Vector(d_model)

    def forward(self, x: X, ops: Ops[X]) -> X:
        return ops.attend_blocks(x, self.scores, self.norm, self.eps)
