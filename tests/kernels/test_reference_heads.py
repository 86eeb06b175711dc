"""What is done to heads, against transformers' own modules."""

from __future__ import annotations

import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.llama4.modeling_llama4 import Llama4TextL2Norm
from transformers.models.minimax_m2.modeling_minimax_m2 import MiniMaxM2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from landrace.kernels.head_form import QkNorm, Temperature
from landrace.kernels.reference.heads import alibi_slopes, gated_heads, normed, temperature

EPS = 3e-3


def test_norms() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 8, generator=generator)
    one, joint = torch.rand(8, generator=generator), torch.rand(24, generator=generator)
    head, full = Qwen3RMSNorm(8, EPS), MiniMaxM2RMSNorm(24, EPS)
    head.weight.data, full.weight.data = one, joint
    expected = {
        QkNorm("before_rope"): (one, head(x)),
        QkNorm("before_rope", over="all_heads"): (joint, full(x.flatten(1)).view(5, 3, 8)),
        QkNorm("after_rope", kind="l2"): (None, Llama4TextL2Norm(EPS)(x)),
    }
    for norm, (weight, values) in expected.items():
        torch.testing.assert_close(normed(x, weight, norm, EPS), values)


def test_temperature() -> None:
    """The formula of Llama 4 at the edges of its steps."""
    positions = torch.tensor([0, 8190, 8191, 8192, 16382, 16383, 200_000])
    steps = torch.tensor([0, 0, 1, 1, 1, 2, 24]).double()
    result = temperature(positions, Temperature(scale=0.1, floor=8192))
    torch.testing.assert_close(result.double(), 1 + 0.1 * (steps + 1).log(), atol=1e-6, rtol=0)


def test_gates_of_heads() -> None:
    x, gate = torch.randn(4, 3, 8), torch.randn(4, 3)
    torch.testing.assert_close(gated_heads(x, gate), x / (1 + (-gate[:, :, None]).exp()))


def test_slopes() -> None:
    for n_heads in (1, 2, 3, 8, 12, 32, 40, 52):
        line = build_alibi_tensor(torch.ones(1, 2), n_heads, torch.float32).view(n_heads, 2)
        torch.testing.assert_close(alibi_slopes(n_heads), line[:, 1] - line[:, 0], atol=1e-7, rtol=1e-6)
