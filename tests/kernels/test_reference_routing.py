"""The reference routing against the routers of transformers, on equal scores, on no numbers and in batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4HashRouter, DeepseekV4TopKRouter
from transformers.models.ernie4_5_moe.modeling_ernie4_5_moe import Ernie4_5_MoeTopKRouter
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeTopkRouter
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter
from transformers.models.hunyuan_v1_moe.modeling_hunyuan_v1_moe import HunYuanMoEV1Gate
from transformers.models.hy_v3.modeling_hy_v3 import HYV3TopKRouter
from transformers.models.llama4.modeling_llama4 import Llama4Router
from transformers.models.minimax_m2.modeling_minimax_m2 import MiniMaxM2TopKRouter
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from landrace.kernels.reference.routing import Routing, route
from landrace.kernels.router import Router

N_EXPERTS, WIDTH, N_ROWS = 24, 16, 200


@dataclass(frozen=True)
class Theirs:
    """A router of transformers, and the record that says the same."""

    module: Callable[[Any], Any]
    router: Router
    config: dict[str, Any] = field(default_factory=dict)
    outside: bool = False
    """The choice's bias is an argument."""


DEEPSEEK = {"norm_topk_prob": True, "routed_scaling_factor": 2.5, "n_group": 6, "topk_group": 3}
SIGMOID = Router(4, "sigmoid", choice_bias=True, renorm=True)
FAMILIES = {
    "qwen2_moe": Theirs(Qwen2MoeTopKRouter, Router(4), {"norm_topk_prob": False}),
    "qwen3_moe": Theirs(Qwen3MoeTopKRouter, Router(4, renorm=True), {"norm_topk_prob": True}),
    "hunyuan_v1_moe": Theirs(HunYuanMoEV1Gate, Router(4, renorm=True)),
    "glm4_moe": Theirs(
        Glm4MoeTopkRouter, replace(SIGMOID, scale=2.5, n_groups=6, top_groups=3, group_score="top2_sum"), DEEPSEEK
    ),
    "deepseek_v2, greedy": Theirs(DeepseekV2TopkRouter, Router(4, scale=2.5), {**DEEPSEEK, "topk_method": "greedy"}),
    "deepseek_v2": Theirs(
        DeepseekV2TopkRouter,
        Router(4, scale=2.5, n_groups=6, top_groups=3),
        {**DEEPSEEK, "topk_method": "group_limited_greedy"},
    ),
    "deepseek_v3": Theirs(
        DeepseekV3TopkRouter, replace(SIGMOID, scale=2.5, n_groups=6, top_groups=3, group_score="top2_sum"), DEEPSEEK
    ),
    "ernie4_5_moe": Theirs(
        Ernie4_5_MoeTopKRouter,
        Router(4, choice_bias=True, renorm=True, renorm_floor=1e-12, renorm_added=0.0),
        {"moe_norm_min": 1e-12},
    ),
    "hy_v3": Theirs(HYV3TopKRouter, replace(SIGMOID, scale=2.8), {"router_scaling_factor": 2.8}, outside=True),
    "minimax_m2": Theirs(MiniMaxM2TopKRouter, SIGMOID, outside=True),
    "gpt_oss": Theirs(GptOssTopKRouter, Router(4, "softmax_of_chosen", bias=True)),
    "llama4": Theirs(Llama4Router, Router(1, "sigmoid_of_chosen")),
    "deepseek_v4": Theirs(
        DeepseekV4TopKRouter,
        Router(4, "sqrt_softplus", choice_bias=True, renorm=True, scale=1.5),
        {"routed_scaling_factor": 1.5, "scoring_func": "sqrtsoftplus"},
    ),
    "deepseek_v4, by token": Theirs(
        DeepseekV4HashRouter,
        Router(4, "sqrt_softplus", renorm=True, scale=1.5, by_token=True),
        {"routed_scaling_factor": 1.5, "scoring_func": "sqrtsoftplus", "vocab_size": 50},
    ),
}


def config_of(theirs: Theirs) -> Any:
    """Every spelling of a router's sizes."""
    sizes = ("num_experts", "n_routed_experts", "num_local_experts")
    choices = ("num_experts_per_tok", "moe_topk")
    return SimpleNamespace(
        hidden_size=WIDTH,
        **dict.fromkeys(sizes, N_EXPERTS),
        **dict.fromkeys(choices, theirs.router.top_k),
        **theirs.config,
    )


def dense(experts: Tensor, weights: Tensor) -> Tensor:
    """[T, n_experts]: what each expert is worth to each row."""
    return torch.zeros(len(experts), N_EXPERTS).scatter(1, experts, weights)


@pytest.mark.parametrize("family", FAMILIES)
def test_routers_of_transformers(family: str) -> None:
    theirs = FAMILIES[family]
    generator = torch.Generator().manual_seed(5)
    module = theirs.module(config_of(theirs)).float()
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    for name, tensor in tensors.items():
        size = 0.3 if "bias" in name else 0.5
        if tensor.is_floating_point():
            tensor.data = torch.randn(tensor.shape, generator=generator) * size
    x = torch.randn(N_ROWS, WIDTH, generator=generator)
    choice_bias = chosen = None
    if theirs.router.choice_bias:
        named = [tensor for name, tensor in tensors.items() if "correction_bias" in name]
        choice_bias = torch.randn(N_EXPERTS, generator=generator) * 0.3 if theirs.outside else named[0].view(-1)
    extra = (choice_bias,) if theirs.outside else ()
    if theirs.router.by_token:
        table = torch.stack([torch.randperm(N_EXPERTS, generator=generator)[:4] for _ in range(50)])
        tensors["tid2eid"].copy_(table)
        tokens = torch.randint(50, (N_ROWS,), generator=generator)
        extra, chosen = (tokens,), table[tokens]
    with torch.no_grad():
        if isinstance(module, Llama4Router):
            expected, logits = module(x)
        else:
            logits, weights, experts = module(x, *extra)
            expected = dense(experts, weights)
        result = route(logits, theirs.router, choice_bias=choice_bias, chosen=chosen)
    assert torch.equal(result.experts, result.experts.sort(-1).values)
    assert result.weights.dtype == torch.float32
    torch.testing.assert_close(dense(result.experts, result.weights), expected, atol=1e-6, rtol=1e-6)
    assert (expected > 0).sum() == N_ROWS * theirs.router.top_k


ROUTERS = {family: theirs.router for family, theirs in FAMILIES.items() if not theirs.router.by_token}


@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
def test_of_equal_scores_the_first_experts_win(router: Router) -> None:
    """In every batch, and so do groups that are equal."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randint(0, 3, (300, N_EXPERTS), generator=generator).float()
    logits[0] = 1.0
    bias = torch.zeros(N_EXPERTS) if router.choice_bias else None
    result = route(logits, router, choice_bias=bias)
    assert result.experts[0].tolist() == list(range(router.top_k))
    if router.n_groups == 1:
        best = [sorted(sorted(range(N_EXPERTS), key=lambda e: (-row[e], e))[: router.top_k]) for row in logits.tolist()]
        assert result.experts.tolist() == best
    for rows in ([], [7], [7, 7, 8], range(100, 260)):
        alone = route(logits[list(rows)], router, choice_bias=bias)
        assert torch.equal(alone.experts, result.experts[list(rows)])
        assert torch.equal(alone.weights, result.weights[list(rows)])


@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
def test_what_is_no_number_stays_in_its_row(router: Router) -> None:
    logits = torch.randn(5, N_EXPERTS, generator=torch.Generator().manual_seed(2))
    bias = torch.randn(N_EXPERTS, generator=torch.Generator().manual_seed(3)) if router.choice_bias else None
    clean = route(logits, router, choice_bias=bias)
    logits[2] = math.nan
    result = route(logits, router, choice_bias=bias)
    assert result.weights[2].isnan().all()
    assert result.experts[2].unique().numel() == router.top_k
    good = [0, 1, 3, 4]
    assert torch.equal(result.experts[good], clean.experts[good])
    assert torch.equal(result.weights[good], clean.weights[good])


def test_scores_of_nothing_are_not_divided_by_nothing() -> None:
    logits = torch.full((1, N_EXPERTS), -200.0)
    for router in (SIGMOID, FAMILIES["ernie4_5_moe"].router):
        result = route(logits, replace(router, score="sigmoid"), choice_bias=torch.zeros(N_EXPERTS))
        assert (result.weights == 0).all()


@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
def test_the_gradient_of_the_worth(router: Router) -> None:
    """Against differences of the weights in float64: the choice itself has none."""
    logits = torch.randn(3, N_EXPERTS, generator=torch.Generator().manual_seed(4)).requires_grad_()
    bias = torch.zeros(N_EXPERTS) if router.choice_bias else None

    def worth(at: Tensor) -> Tensor:
        result: Routing = route(at, router, choice_bias=bias)
        return (result.weights * torch.arange(1, router.top_k + 1)).sum(-1)

    (ours,) = torch.autograd.grad(worth(logits).sum(), logits)
    for column in range(N_EXPERTS):
        step = torch.zeros_like(logits)
        step[:, column] = 1e-2
        slope = (worth(logits + step) - worth(logits - step)) / 2e-2
        torch.testing.assert_close(ours[:, column], slope.detach(), atol=2e-3, rtol=0)
