"""`system_fingerprint`: a short hash of what decides a model's answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from landrace import __version__
from landrace.checkpoints import Checkpoint
from landrace.checkpoints.adapter import adapter_sha256
from landrace.checkpoints.bounded import read_range
from landrace.checkpoints.encoder_checkpoint import EncoderCheckpoint
from landrace.embedding.opening import ReadingModel
from landrace.engine.options import EngineOptions
from landrace.engine.sampler import SamplingState, choose_tokens
from landrace.engine.sampling_params import SamplingParams
from landrace.model import ServingModel
from landrace.models.serving import ServingDecoder

_SAMPLED_TENSORS = 512
_SAMPLED_BYTES = 4096
_DRAWN = 32
_DRAWN_WITH = (
    SamplingParams(seed=1),
    SamplingParams(seed=2, temperature=1.5, top_k=40),
    SamplingParams(seed=3, top_p=0.9, repetition_penalty=1.2, frequency_penalty=0.5),
    SamplingParams(seed=4, min_p=0.05, presence_penalty=0.5),
)


def fingerprint(opened: ServingModel, weights: str, options: EngineOptions, adapter: Path | None) -> str:
    """Equal for two servers that compute alike: version, kernels, weights and how they are held, draws, template,
    adapter.

    `weights` is how they are held. Of large files only a part is read, so that a server starts as fast as without: some
    bytes from the middle of each tensor, or of every k-th where there are very many. `adapter` is a folder.
    """
    template = opened.model.tokenizer.chat_template
    spec = asdict(opened.model.decoder.spec)
    # How long a sequence may be changes nothing but the rotary tables of some models, which stand in the layers.
    del spec["max_length"], spec["length_limit"]
    facts = {
        "version": __version__,
        "kernels": opened.kernels,
        "held": weights,
        "cache": options.cache_dtype,
        "shifts": [options.context_keep, opened.engine.max_length] if options.shifts else None,
        "spec": spec,
        "draws": _draws(opened.model.decoder),
        "template": template.sha256 if template else None,
        "weights": _sampled(opened.model.checkpoint),
        "adapter": adapter_sha256(adapter) if adapter else None,
    }
    return _hash(facts)


def fingerprint_of(model: ReadingModel, weights: str, options: EngineOptions, adapter: Path | None) -> str:
    """The same of a model of either kind; an encoder has no adapters."""
    if model.decoder is not None:
        return fingerprint(model.decoder, weights, options, adapter)
    return _hash(
        {
            "version": __version__,
            "kernels": model.kernels,
            "held": weights,
            "spec": asdict(model.checkpoint.spec),
            "weights": _sampled(model.checkpoint),
        }
    )


def _hash(facts: Mapping[str, Any]) -> str:
    return f"fp_{blake2b(json.dumps(facts, default=str).encode(), digest_size=8).hexdigest()}"


def _draws(decoder: ServingDecoder) -> list[list[int]]:
    """Tokens drawn from made-up logits: what changes the numbers behind the draws, or how they choose, changes these
    tokens."""
    row = (torch.arange(64) * 37 % 64 / 16.0).to(decoder.device)
    logits = row.expand(len(_DRAWN_WITH), -1).contiguous()
    states = [SamplingState(params, (0,), decoder.device) for params in _DRAWN_WITH]
    found = []
    for _ in range(_DRAWN):
        found.append(choose_tokens(logits, states, decoder.choose_tokens))
        for state, token in zip(states, found[-1], strict=True):
            state.record(token)
    return found


def _sampled(checkpoint: Checkpoint | EncoderCheckpoint) -> str:
    infos = sorted(checkpoint.tensor_infos.values(), key=lambda info: info.name)
    found = blake2b()
    for info in infos[:: 1 + len(infos) // _SAMPLED_TENSORS]:
        found.update(repr((info.name, info.dtype, info.shape)).encode())
        count = min(info.nbytes, _SAMPLED_BYTES)
        found.update(read_range(info.path, info.offset + (info.nbytes - count) // 2, count).numpy().tobytes())
    return found.hexdigest()
