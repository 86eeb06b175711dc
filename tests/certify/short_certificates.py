"""Two short conversations, adapters on tiny models, and what of a certificate did not pass."""

from __future__ import annotations

from pathlib import Path

import torch

from landrace.certify import Certificate, PathResult
from landrace.checkpoints import open_checkpoint
from landrace.checkpoints.adapter import write_adapter
from landrace.models.adapters import fresh_tensors
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import LoraSpec

SHORT = [
    [{"role": "user", "content": "Is ice lighter than water?"}, {"role": "assistant", "content": "Yes, it floats."}],
    [{"role": "user", "content": "冰比水轻吗？"}, {"role": "assistant", "content": "是的，它会浮起来。"}],
]


def failures(certificate: Certificate) -> list[PathResult]:
    return [path for path in certificate.paths if not path.passed]


def random_adapter(model: Path, folder: Path, spec: LoraSpec, size: float) -> Path:
    """On all projections of a model that `spec` targets, with values of that standard deviation; returns `folder`."""
    checkpoint = open_checkpoint(model)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) * size
        for name, tensor in fresh_tensors(Decoder(checkpoint.spec).adaptable(spec.targets), spec).items()
    }
    write_adapter(folder, spec, tensors, checkpoint.adapter_sources[0], "tiny", {})
    return folder
