"""How much the inputs of every weight matter: the mean of their squares over a text.

An error in a weight changes a product by the error times its input, so the squared errors of a row, weighted by this,
add up to the expected squared error of its product, as far as inputs do not depend on one another.

The text goes through the model layer by layer, so that one of them at a time is in memory, in float32, and of the text
what lies between two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from landrace.checkpoints import Checkpoint
from landrace.models.batch import ForwardBatch
from landrace.models.decoder import Decoder
from landrace.models.families.weights import Source
from landrace.models.params import Experts
from landrace.models.reference_ops import ReferenceOps

PRIOR_ROWS = 16
"""So many rows whose inputs are all alike are added to those that were seen: an input that the text never moves is not
free, and an expert that few tokens went to is not judged by them alone."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Importance:
    """Of each weight by its name in the decoder: [n_in], or [n_experts, n_in]; the mean over all inputs is 1."""

    of_inputs: Mapping[str, Tensor]
    n_experts: int
    """Experts in all layers."""
    n_unseen: int
    """Those that no token went to. Their inputs count alike."""

    def by_tensor(self, sources: Mapping[str, Source]) -> dict[str, Tensor]:
        """Stored tensor to what the inputs on its last axis count; none for those whose last axis counts others."""
        found: dict[str, Tensor] = {}
        for name, source in sources.items():
            if name not in self.of_inputs or source.transposed:
                continue
            counts = source.put_columns(self.of_inputs[name])
            every = (counts,) if source.stacked is None else counts
            found |= dict(zip(source.tensors, every, strict=True))
        return found


class _Listener:
    """Sums of squares by weight."""

    def __init__(self, decoder: Decoder) -> None:
        self._n_experts = {
            module.name: module.weight.shape[0] for module in decoder.modules() if isinstance(module, Experts)
        }
        self._sums: dict[str, Tensor] = {}
        self._rows: dict[str, Tensor] = {}

    def hear(self, weight: str, x: Tensor, expert: int | None = None) -> None:
        n_experts = self._n_experts.get(weight, 1)
        if weight not in self._sums:
            self._sums[weight] = torch.zeros(n_experts, x.shape[-1], dtype=torch.float64)
            self._rows[weight] = torch.zeros(n_experts, dtype=torch.float64)
        rows = x.detach().reshape(-1, x.shape[-1])
        self._sums[weight][expert or 0] += rows.float().square().sum(dim=0).double().cpu()
        self._rows[weight][expert or 0] += len(rows)

    def importance(self) -> Importance:
        found, n_unseen = {}, 0
        for name, sums in self._sums.items():
            rows = self._rows[name][:, None]
            usual = sums.mean(dim=1, keepdim=True) / rows.clamp(min=1)
            usual = torch.where(usual > 0, usual, 1.0)
            counts = ((sums + PRIOR_ROWS * usual) / (rows + PRIOR_ROWS) / usual).float()
            counts /= counts.mean(dim=1, keepdim=True)
            found[f"{name}.weight"] = counts if name in self._n_experts else counts[0]
        n_experts = 0
        for layer in {name.rpartition(".")[0] for name in self._n_experts}:
            seen = self._rows[f"{layer}.gate_proj"] > 0
            n_experts += len(seen)
            n_unseen += int((~seen).sum())
        return Importance(found, n_experts, n_unseen)


class _ListeningOps(ReferenceOps):
    def __init__(self, decoder: Decoder, batch: ForwardBatch, listener: _Listener) -> None:
        super().__init__(batch, decoder.adapters, decoder.product_dtype, self._head)
        self._listener = listener
        self._name = "embed_tokens" if decoder.lm_head is None else "lm_head"

    def hear(self, weight: str, x: Tensor, expert: int | None = None) -> None:
        self._listener.hear(weight, x, expert)

    def _head(self, hidden: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        """The head's inputs are all that is wanted of it."""
        self._listener.hear(self._name, hidden)
        return hidden


@torch.no_grad()
def importance_of(
    checkpoint: Checkpoint,
    windows: Sequence[Sequence[int]],
    progress: Progress | None = None,
    device: str | torch.device = "cpu",
) -> Importance:
    """What the inputs of the model's weights are worth, by one pass over the windows, each a sequence of its own.

    `progress` is called with layers done and layers in all.
    """
    decoder, stored = Decoder(checkpoint.spec), checkpoint.stored()
    listener = _Listener(decoder)
    steps = [_ListeningOps(decoder, ForwardBatch.packed([list(ids)], device=device), listener) for ids in windows]

    @contextmanager
    def loaded(under: str) -> Iterator[None]:
        own = ((name, tensor.floats()) for name, tensor in stored.items() if name.startswith(under))
        decoder.load(own, device, under)
        yield
        decoder.unload(under)

    with loaded("embed_tokens."):
        rows = [decoder.begin(step) for step in steps]
    for number, layer in enumerate(decoder.layers):
        with loaded(f"layers.{number}."):
            for window, step in enumerate(steps):
                rows[window] = layer(rows[window], step)
        if progress is not None:
            progress(number + 1, len(decoder.layers))
    with loaded("norm."), loaded("hc_head."), loaded("head_blocks."):
        for window, step in enumerate(steps):
            decoder.end(rows[window], step)
    return listener.importance()
