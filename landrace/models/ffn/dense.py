"""The gated feed-forward layer, for every backend."""

from __future__ import annotations

import torch
from torch import nn

from landrace.models.ffn_spec import Dense
from landrace.models.ops import Ops, X
from landrace.models.params import Linear, Norm


class DenseBlock(nn.Module):
    def __init__(self, spec: Dense, d_model: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.spec = spec
        self.gate_proj = Linear(d_model, spec.d_hidden, spec.bias, dtype, "out")
        self.up_proj = Linear(d_model, spec.d_hidden, spec.bias, dtype, "out")
        self.down_proj = Linear(spec.d_hidden, d_model, spec.bias, dtype, "in")

    def forward(self, x: X, ops: Ops[X], norm: Norm | None, into: X | None, factor: float, gate: X | None = None) -> X:
        """into + factor * down(activation(gate(norm(x)), up(norm(x)))), times sigmoid(gate [T, 1]) if there is one."""
        hidden = ops.gated(x, self.gate_proj, self.up_proj, self.spec.activation, norm=norm)
        return ops.add_linear(into, hidden, self.down_proj, factor, gate=gate)
