"""One optimizer step: gradients over as many forward passes as it takes, clipping, AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from landrace.errors import LandraceError
from landrace.models.batch import AdapterRows
from landrace.models.decoder import Decoder
from landrace.training.examples import Example
from landrace.training.loss import backward_loss
from landrace.training.options import TuneOptions
from landrace.training.packing import micro_batches

if TYPE_CHECKING:
    from landrace.training.trainer import TuneResult


class DivergedError(LandraceError):
    """A loss or its gradient stopped being a finite number."""

    result: TuneResult | None = None
    """From `tune`: the run up to the newest weights that were no worse than the first; None when there are none."""


@dataclass(frozen=True)
class StepResult:
    loss: float
    """Mean -log p over the step's trained tokens, in nats, before the update."""
    grad_norm: float
    """Before clipping."""
    tokens: int
    trained_tokens: int


def make_optimizer(parameters: Mapping[str, nn.Parameter], options: TuneOptions) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019) with torch's defaults; matrices decay, norms and biases do not."""
    matrices = [parameter for parameter in parameters.values() if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters.values() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=options.peak_learning_rate)


def optimizer_step(
    decoder: Decoder,
    optimizer: torch.optim.Optimizer,
    examples: Sequence[Example],
    *,
    step: int,
    rate: float,
    options: TuneOptions,
    adapters: tuple[AdapterRows, ...] = (),
) -> StepResult:
    """Moves the parameters `optimizer` holds once, on the mean loss over all trained tokens of `examples`.

    The mean is over the whole step, so how the examples are spread over forward passes changes rounding only.
    `step`, counted from 1, is named by the DivergedError, which leaves the parameters as they were.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    batches = micro_batches(examples, options.micro_tokens, device=decoder.device, adapters=adapters)
    trained_tokens = sum(micro.targets.numel() for micro in batches)
    loss = 0.0
    for micro in batches:
        loss += backward_loss(decoder, micro, divisor=trained_tokens) / trained_tokens
        check_finite("loss", loss, step, updates=step - 1)
    grad_norm = float(nn.utils.clip_grad_norm_(parameters, options.clip_norm))
    check_finite("gradient", grad_norm, step, updates=step - 1)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return StepResult(loss, grad_norm, sum(micro.tokens for micro in batches), trained_tokens)


def check_finite(name: str, value: float, step: int, *, updates: int) -> None:
    """DivergedError when `value`, met in `step` (counted from 1) after so many updates, is NaN or infinite."""
    if math.isfinite(value):
        return
    raise DivergedError(
        f"The {name} became {value} in step {step}.",
        hint="Start again with a lower learning_rate."
        if updates
        else "Nothing was trained before, so the model or a row is the cause: try --precision float32.",
    )
