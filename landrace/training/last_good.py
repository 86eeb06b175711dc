"""The newest weights that were no worse than those a run began with: what is left when it diverges.

A step's loss judges the weights before its update, so it is known one step later whether an update was good.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from landrace.checkpoints.folder import writing
from landrace.training.checkpoint import checkpoint_step, checkpoints
from landrace.training.log import StepReport


class LastGood:
    """Keeps a copy of the parameters in memory where they are an adapter's; for all weights of a model, which would
    take as much memory again, there are the run's checkpoints."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, in_memory: bool) -> None:
        self._parameters = parameters
        self._in_memory = in_memory
        self._begun: tuple[int, dict[str, Tensor]] = (0, {})
        self._kept: tuple[int, dict[str, Tensor]] = (0, {})

    def begin(self, done: int) -> None:
        """Before a step, with the number of updates behind it."""
        if self._in_memory:
            self._begun = (done, {name: parameter.detach().clone() for name, parameter in self._parameters.items()})

    def measured(self, loss: float, first: float) -> None:
        """The loss of the weights that the step began with, and that of the first step."""
        if loss <= first:
            self._kept = self._begun

    def restore(self, reports: Sequence[StepReport], folder: Path, load: Callable[[Path], int]) -> int:
        """Puts the newest good weights in place and returns the updates behind them; 0: there are none.

        Checkpoints in `folder` that are not good are deleted; `load` puts one in place.
        """
        good = {report.step - 1 for report in reports if report.loss <= reports[0].loss}
        left = []
        with writing(folder):
            for path in checkpoints(folder):
                if checkpoint_step(path) in good:
                    left.append(path)
                else:
                    shutil.rmtree(path)
        step, tensors = self._kept
        if left and checkpoint_step(left[-1]) > step:
            return load(left[-1])
        with torch.no_grad():
            for name, tensor in tensors.items():
                self._parameters[name].copy_(tensor)
        return step
