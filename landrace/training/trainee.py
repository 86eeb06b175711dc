"""What of a decoder is trained: a new adapter or all weights, for as long as a run lasts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from landrace.errors import OptionError
from landrace.models.adapters import fresh_tensors
from landrace.models.batch import AdapterRows
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import INDEXER_PROJECTIONS, PROJECTIONS, LoraSpec
from landrace.training.options import TuneOptions

_FINGERPRINT_ELEMENTS = 256


@dataclass(frozen=True)
class Trainee:
    """What of the decoder is trained."""

    parameters: dict[str, nn.Parameter]
    lora: LoraSpec | None
    adapters: tuple[AdapterRows, ...]


@contextmanager
def trainee(decoder: Decoder, options: TuneOptions) -> Iterator[Trainee]:
    """Makes the chosen parameters trainable, and nothing else, for as long as the context lasts."""
    before = [(parameter, parameter.requires_grad) for parameter in decoder.parameters()]
    decoder.requires_grad_(False)
    place: int | None = None
    try:
        if options.method == "lora":
            spec = LoraSpec(options.rank, options.alpha, _targets_of(decoder, options.targets))
            shapes = decoder.adaptable(spec.targets)
            start = fresh_tensors(shapes, spec, torch.Generator().manual_seed(options.seed))
            place = decoder.add_adapter(spec, start)
            made = Trainee(decoder.adapters[place].parameters(), spec, (AdapterRows(place, None),))
        else:
            made = Trainee(_all_weights(decoder), None, ())
        for parameter in made.parameters.values():
            parameter.requires_grad_(True)
        yield made
    finally:
        if place is not None:
            decoder.remove_adapter(place)
        decoder.zero_grad(set_to_none=True)
        for parameter, required in before:
            parameter.requires_grad_(required)


def _targets_of(decoder: Decoder, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Of the wanted projections those that the decoder has and that learn: no gradient reaches an indexer. OptionError
    for a choice that it has not, and for none."""
    own = {name.rpartition(".")[2] for name in decoder.adaptable(PROJECTIONS)} - set(INDEXER_PROJECTIONS)
    missing = [name for name in wanted if name not in own]
    if missing and wanted != PROJECTIONS:
        raise OptionError(
            f"This model has no {missing[0]} that could learn with an adapter.",
            hint=f"Choose from {', '.join(name for name in PROJECTIONS if name in own)}.",
        )
    return tuple(name for name in wanted if name in own)


def _all_weights(decoder: Decoder) -> dict[str, nn.Parameter]:
    if decoder.dtype != torch.float32:
        raise OptionError(
            f"Full tuning needs weights in float32, not {decoder.dtype}: smaller updates would be lost.",
            hint="Open the model in float32, or tune an adapter (--method lora).",
        )
    if len(decoder.adapters):
        raise OptionError("Full tuning needs a decoder without adapters.", hint="Remove the adapters first.")
    return {name: parameter for name, parameter in decoder.named_parameters() if parameter.is_floating_point()}


def weights_fingerprint(decoder: Decoder) -> str:
    """SHA-256 over the product dtype and every weight's name, shape, dtype and up to 256 evenly spaced elements.

    Enough to tell two models apart, in milliseconds. It is no proof against forgery; the checkpoint's own hash is.
    """
    digest = hashlib.sha256(f"{decoder.product_dtype}\n".encode())
    for name, tensor in decoder.named_tensors():
        flat = tensor.reshape(-1)
        sample = flat[:: max(1, flat.numel() // _FINGERPRINT_ELEMENTS)][:_FINGERPRINT_ELEMENTS]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(sample.float().cpu().numpy().tobytes())
    return digest.hexdigest()
