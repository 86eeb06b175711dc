"""Gradients of a tiny model of transformers beside ours."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_models import save
from torch import Tensor

from landrace.models.batch import ForwardBatch
from landrace.models.decoder import Decoder
from landrace.models.families import FamilyModel

WITHOUT_GRADIENT = ("choice_bias", ".indexer.", "index_")
"""What only chooses."""


def gradient_difference(family: FamilyModel, decoder: Decoder, model: Any, sequences: list[list[int]]) -> float:
    """The greatest difference of a gradient, relative to the greatest of its tensor, over all weights.

    What is differentiated is a random sum of the logits. The gradients of transformers' model are saved in the place of
    its weights, so they go by the names and layouts of its files.
    """
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(len(ids), decoder.spec.vocab_size, generator=generator) for ids in sequences]
    model = copy.deepcopy(model).requires_grad_(True)
    for ids, weight in zip(sequences, weights, strict=True):
        (model(input_ids=torch.tensor([ids]), use_cache=False).logits[0] * weight).sum().backward()
    for parameter in decoder.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    (decoder(ForwardBatch.packed(sequences)) * torch.cat(weights)).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros(()) if parameter.grad is None else parameter.grad)
    with tempfile.TemporaryDirectory() as folder:
        _, theirs = save(model, Path(folder))
    return max(
        _difference(parameter.grad, replace(family.sources[name], form="plain").take(theirs))
        for name, parameter in decoder.named_parameters()
        if parameter.requires_grad and not any(part in name for part in WITHOUT_GRADIENT)
    )


def _difference(ours: Tensor | None, theirs: Tensor) -> float:
    greatest = theirs.abs().max()
    if ours is None:
        return float("inf") if greatest else 0.0
    return float((ours - theirs).abs().max() / greatest)
