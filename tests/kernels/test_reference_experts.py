"""The reference experts against those of transformers and against sums written out, with gradients and adapters."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4Experts
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.llama4.modeling_llama4 import Llama4TextMoe
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts
from transformers.models.step3p7.modeling_step3p7 import Step3p7Experts

from landrace.kernels.activation import SWIGLU, Activation
from landrace.kernels.reference.dense import gated
from landrace.kernels.reference.experts import ExpertAdapter, ExpertProjection, experts
from landrace.kernels.reference.routing import Routing, route
from landrace.kernels.router import Router

E, K, D, F, T = 6, 3, 10, 14, 40
CONFIG = SimpleNamespace(
    hidden_size=D, hidden_act="silu", num_experts=E, num_local_experts=E, moe_intermediate_size=F, intermediate_size=F,
    swiglu_limit=0.5, swiglu_alpha=1.7, intermediate_size_mlp=F, num_experts_per_tok=1, _experts_implementation="eager",
)  # fmt: skip


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def routing_of(n_rows: int = T, seed: int = 0) -> Routing:
    return route(normal(n_rows, E, seed=seed) * 2, Router(K))


def projections(bias: bool = False) -> list[ExpertProjection]:
    """Gate, up and down."""
    shapes = ((F, D), (F, D), (D, F))
    return [
        ExpertProjection(normal(E, *shape, seed=i), normal(E, shape[0], seed=9 + i) if bias else None)
        for i, shape in enumerate(shapes)
    ]


def written_out(
    x: Tensor, routing: Routing, parts: list[ExpertProjection], activation: Activation, weight_on_input: bool = False
) -> Tensor:
    """Row by row in float64, in the order of the experts."""
    doubles = [(p.weight.double(), torch.zeros(E, 1).double() if p.bias is None else p.bias.double()) for p in parts]
    rows = []
    for row, numbers, weights in zip(x.double(), routing.experts.tolist(), routing.weights.double(), strict=True):
        total = torch.zeros(D).double()
        for expert, weight in zip(numbers, weights, strict=True):
            inputs = row * weight if weight_on_input else row
            one, other, down = ((w[expert], b[expert]) for w, b in doubles)
            hidden = gated(one[0] @ inputs + one[1], other[0] @ inputs + other[1], activation)
            out = down[0] @ hidden + down[1]
            total = total + (out if weight_on_input else out * weight)
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("weight_on_input", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", [SWIGLU, Activation("oai", limit=1.0, alpha=1.7)], ids=["swiglu", "oai"])
def test_against_sums_written_out(activation: Activation, bias: bool, weight_on_input: bool) -> None:
    """With gradients of the input, the weights and what the experts are worth."""
    x, parts, logits = normal(T, D).requires_grad_(), projections(bias), normal(T, E, seed=5).requires_grad_()
    leaves = [x, logits, *(p.weight.requires_grad_() for p in parts)]
    leaves += [p.bias.requires_grad_() for p in parts if p.bias is not None]
    routing = route(logits, Router(K))
    result = experts(x, routing, *parts, activation=activation, weight_on_input=weight_on_input)
    expected = written_out(x, routing, parts, activation, weight_on_input)
    torch.testing.assert_close(result.double(), expected, atol=1e-4, rtol=1e-5)
    grad = normal(T, D, seed=3)
    ours = torch.autograd.grad(result, leaves, grad, retain_graph=True)
    theirs = torch.autograd.grad(expected, leaves, grad.double())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-4)


def weights_in(module: Any) -> dict[str, Tensor]:
    for index, parameter in enumerate(module.parameters()):
        parameter.data = normal(*parameter.shape, seed=20 + index) * 0.4
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


@pytest.mark.parametrize(
    ("module", "activation"),
    [
        (Qwen3MoeExperts(CONFIG), SWIGLU),
        (DeepseekV4Experts(CONFIG), Activation("clamp_before", limit=0.5)),
        (Step3p7Experts(CONFIG, swiglu_limit=0.5), Activation("clamp_after", limit=0.5)),
    ],
    ids=["qwen3_moe", "deepseek_v4", "step3p7"],
)
def test_experts_of_transformers(module: Any, activation: Activation) -> None:
    tensors, x, routing = weights_in(module), normal(T, D), routing_of()
    gate, up = tensors["gate_up_proj"].split(F, dim=1)
    parts = [ExpertProjection(weight) for weight in (gate, up, tensors["down_proj"])]
    with torch.no_grad():
        expected = module(x, routing.experts, routing.weights)
    torch.testing.assert_close(experts(x, routing, *parts, activation=activation), expected, atol=1e-5, rtol=1e-5)


def test_the_experts_of_gpt_oss() -> None:
    module = GptOssExperts(CONFIG)
    tensors, x, routing = weights_in(module), normal(T, D), routing_of()
    weight, bias = tensors["gate_up_proj"].transpose(1, 2), tensors["gate_up_proj_bias"]
    parts = [ExpertProjection(weight[:, at::2], bias[:, at::2]) for at in (0, 1)]
    parts.append(ExpertProjection(tensors["down_proj"].transpose(1, 2), tensors["down_proj_bias"]))
    with torch.no_grad():
        expected = module(x, routing.experts, routing.weights)
    result = experts(x, routing, *parts, activation=Activation("oai", limit=0.5, alpha=1.7))
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_the_experts_of_llama4() -> None:
    module = Llama4TextMoe(CONFIG)
    tensors, x = weights_in(module), normal(T, D)
    gate, up = tensors["experts.gate_up_proj"].transpose(1, 2).split(F, dim=1)
    parts = [ExpertProjection(weight) for weight in (gate, up, tensors["experts.down_proj"].transpose(1, 2))]
    with torch.no_grad():
        both, logits = module(x)
        expected = both - module.shared_expert(x)
    routing = route(logits, Router(1, "sigmoid_of_chosen"))
    result = experts(x, routing, *parts, weight_on_input=True)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def chosen(*rows: tuple[int, ...]) -> Routing:
    return Routing(torch.tensor(rows), normal(len(rows), len(rows[0]), seed=8).abs())


@pytest.mark.parametrize(
    "routing",
    [chosen(*[(2,)] * 9), chosen(*[(0, 5)] * 9), chosen((0, 1, 2, 3, 4, 5)), routing_of(0)],
    ids=["one gets all", "some get none", "all get one", "no rows"],
)
def test_uneven_experts(routing: Routing) -> None:
    x, parts = normal(len(routing.experts), D), projections()
    result = experts(x, routing, *parts)
    assert result.shape == x.shape
    if len(x):
        torch.testing.assert_close(result.double(), written_out(x, routing, parts, SWIGLU), atol=1e-4, rtol=1e-5)


def test_what_is_no_number_stays_in_its_row() -> None:
    x, routing, parts = normal(T, D), routing_of(), projections()
    clean = experts(x, routing, *parts)
    x[7] = math.nan
    result = experts(x, routing, *parts)
    assert result[7].isnan().all()
    assert not result[torch.arange(T) != 7].isnan().any()
    torch.testing.assert_close(result[8:], clean[8:])


def test_products_are_in_the_dtype_of_the_rows_and_the_sum_is_float32() -> None:
    """Equal experts of opposite worth add up to nothing; a sum in bfloat16 would leave something of a third one."""
    x = normal(5, D).bfloat16()
    parts = [ExpertProjection(p.weight[:1].expand(E, -1, -1)) for p in projections()]
    routing = Routing(torch.tensor([[0, 1, 2]] * 5), torch.tensor([[100.0, 0.01, -100.0]] * 5))
    result = experts(x, routing, *parts)
    assert result.dtype == torch.bfloat16
    alone = experts(x, Routing(routing.experts[:, 1:2], routing.weights[:, 1:2]), *parts)
    torch.testing.assert_close(result, alone, atol=2e-3, rtol=1e-2)


def test_adapters() -> None:
    """Two adapters on each projection, one of them for some rows: as if each row had weights of its own."""
    x, routing, rank = normal(T, D), routing_of(), 4
    some = torch.tensor([0, 3, 4, 17, 39])
    plain, adapted = projections(bias=True), []
    per_row: list[list[Tensor]] = [[] for _ in range(T)]
    for index, projection in enumerate(plain):
        n_out, n_in = projection.weight.shape[1:]
        a = [normal(E, rank, n_in, seed=30 + index + n).requires_grad_() for n in (0, 10)]
        b = [normal(E, n_out, rank, seed=60 + index + n).requires_grad_() for n in (0, 10)]
        adapters = [ExpertAdapter(None, a[0], b[0], 0.5), ExpertAdapter(some, a[1], b[1], -0.25)]
        adapted.append(ExpertProjection(projection.weight, projection.bias, adapters))
        for row in range(T):
            weight = projection.weight + 0.5 * b[0] @ a[0]
            per_row[row].append(weight - 0.25 * b[1] @ a[1] if row in some else weight)
    result = experts(x, routing, *adapted)
    expected = []
    for row in range(T):
        own = [ExpertProjection(weight, p.bias) for weight, p in zip(per_row[row], plain, strict=True)]
        one = Routing(routing.experts[row : row + 1], routing.weights[row : row + 1])
        expected.append(written_out(x[row : row + 1], one, own, SWIGLU))
    torch.testing.assert_close(result.double(), torch.cat(expected), atol=1e-3, rtol=1e-4)
    leaves = [leaf for p in adapted for adapter in p.adapters for leaf in (adapter.a, adapter.b)]
    grad = normal(T, D, seed=3)
    ours = torch.autograd.grad(result, leaves, grad)
    theirs = torch.autograd.grad(torch.cat(expected), leaves, grad.double())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=5e-3, rtol=1e-3)
