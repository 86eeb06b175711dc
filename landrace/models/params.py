"""Named weights: what a block declares and what operations take.

A holder knows its shape and its part in the model; `Decoder` tells it its name. The parameters lie on the meta device
until a checkpoint is loaded, and stay there where other kernels hold the weights.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from landrace.kernels.router import Router

Role = Literal[
    "table", "linear", "heads", "absorbed", "experts", "norm", "vector", "router", "streams", "kernel", "places"
]
Split = Literal["out", "in", "experts"]


class Weights(nn.Module):
    """Parameters that an operation takes together. Holders are not called: an `Ops` reads them."""

    name: str
    """Where it lies in the decoder, such as `layers.0.self_attn.q_proj`."""
    role: ClassVar[Role]
    split: Split | None = None
    """How processors that share a layer would cut its weight: by its outputs, its inputs or its experts; None: each
    would hold all of it."""
    share = 1.0
    """How much of it one token uses."""
    n_heads = 1
    """How many heads its rows belong to, where it is multiplied head by head."""
    repeats = 1
    """For how many parts of a row, one behind another, it holds."""


class Table(Weights):
    """Rows by token, [vocabulary, d_model]."""

    role = "table"

    def __init__(self, n_rows: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        # Not nn.Embedding: its initialisation on the meta device loads a second's worth of torch's compiler.
        self.weight = _parameter(n_rows, width, dtype=dtype)


class Linear(Weights):
    """y = x W^T + b, with W [n_out, n_in]."""

    role: ClassVar[Role] = "linear"
    bias: nn.Parameter | None

    def __init__(self, n_in: int, n_out: int, bias: bool, dtype: torch.dtype, split: Split | None = None) -> None:
        super().__init__()
        self.split = split
        self.weight = _parameter(n_out, n_in, dtype=dtype)
        self.bias = _parameter(n_out) if bias else None


class HeadLinear(Linear):
    """y[h] = x W[h]^T for every head h, with W [n_heads * n_out, n_in]; backends may multiply head by head."""

    role: ClassVar[Role] = "heads"

    def __init__(self, n_heads: int, n_in: int, n_out: int, dtype: torch.dtype) -> None:
        super().__init__(n_in, n_heads * n_out, False, dtype, "out")
        self.n_heads = n_heads


class AbsorbedLinear(HeadLinear):
    """The same, but backends may multiply what y[h] would be multiplied with by W[h] instead: q.(x W^T) = (q W).x."""

    role = "absorbed"


class Norm(Weights):
    """The weight of an RMS norm, [size], over each of `groups` equal parts by itself. `shared`: it is the weight of one
    part, and the same for all."""

    role = "norm"

    def __init__(self, size: int, eps: float, groups: int = 1, *, shared: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.groups = groups
        self.repeats = groups if shared else 1
        self.weight = _parameter(size)


class LayerNorm(Norm):
    """The weight and the bias of a norm that also takes the mean away (Ba et al., 2016), [size]."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps)
        self.bias = _parameter(size)


class Vector(Weights):
    """One number for each of so many things, kept in float32."""

    role = "vector"

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = _parameter(size)


class Kernel(Weights):
    """Taps of a causal convolution of each channel, [channels, 1, width], the oldest row's first, kept in float32."""

    role = "kernel"
    split = "out"

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weight = _parameter(channels, 1, width)


class PlaceBias(Weights):
    """What is added to the gates of each place of a pool of positions, [places, channels], kept in float32."""

    role = "places"

    def __init__(self, places: int, channels: int) -> None:
        super().__init__()
        self.weight = _parameter(places, channels)


class Experts(Weights):
    """A linear layer for each expert: W [n_experts, n_out, n_in] and b [n_experts, n_out]."""

    role = "experts"
    split = "experts"
    bias: nn.Parameter | None

    def __init__(self, n_experts: int, n_in: int, n_out: int, bias: bool, dtype: torch.dtype, share: float) -> None:
        super().__init__()
        self.share = share
        self.weight = _parameter(n_experts, n_out, n_in, dtype=dtype)
        self.bias = _parameter(n_experts, n_out) if bias else None


class RouterWeights(Weights):
    """What a router of a mixture of experts learns, in float32: W [n_experts, n_in], biases of the logits and of the
    choice [n_experts], and a table of experts by token [vocabulary, top_k] of whole numbers."""

    role = "router"
    bias: nn.Parameter | None
    choice_bias: nn.Parameter | None
    table: nn.Parameter | None

    def __init__(self, router: Router, n_experts: int, n_in: int, vocab_size: int) -> None:
        super().__init__()
        self.weight = _parameter(n_experts, n_in)
        self.bias = _parameter(n_experts) if router.bias else None
        self.choice_bias = _parameter(n_experts) if router.choice_bias else None
        self.table = _parameter(vocab_size, router.top_k, dtype=torch.int64) if router.by_token else None


class StreamWeights(Weights):
    """What weights residual streams (`kernels.streams`), in float32: one number for each stream, then another, then one
    for each pair of streams, in so many of these `parts`. W [numbers, count * d_model], base [numbers], scale [parts].
    """

    role = "streams"

    def __init__(self, count: int, d_model: int, eps: float, parts: int) -> None:
        super().__init__()
        self.eps = eps
        numbers = sum((count, count, count * count)[:parts])
        self.weight = _parameter(numbers, count * d_model)
        self.base = _parameter(numbers)
        self.scale = _parameter(parts)


def name_weights(tree: nn.Module) -> None:
    """Tells every holder in `tree` its name."""
    for name, module in tree.named_modules():
        if isinstance(module, Weights):
            module.name = name


def _parameter(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape, dtype=dtype), requires_grad=False)


def adaptable(tree: nn.Module, targets: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """The weight shapes, [out, in] or [experts, out, in], of the linear weights whose last name is in `targets`, by
    name."""
    return {
        name: tuple(module.weight.shape)
        for name, module in tree.named_modules()
        if isinstance(module, (Linear, Experts)) and name.rpartition(".")[2] in targets
    }


def as_parameter(tensor: Tensor) -> nn.Parameter:
    """The same memory as a parameter that is not trained."""
    return nn.Parameter(tensor, requires_grad=False)
