"""An encoder opened whole: checkpoint, encoder and tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch

from landrace.checkpoints.encoder_checkpoint import EncoderCheckpoint, open_encoder_checkpoint
from landrace.checkpoints.store import ModelStore, default_home
from landrace.model import available_threads, choose_kernels, open_tokenizer
from landrace.models.cpu_encoder import CpuEncoder
from landrace.models.encoder import Encoder, EncoderBackend, ReferenceEncoder
from landrace.models.stored import Weights, held_as
from landrace.text import Tokenizer


def open_encoder(
    name: str,
    *,
    kernels: str = "auto",
    threads: int | None = None,
    weights: Weights = "stored",
    home: Path | None = None,
) -> tuple[Encoder, Tokenizer, EncoderCheckpoint]:
    """Opens an encoder by store name, folder or `.gguf` path, on the processor: on the C++ kernels where they are
    built, else on the reference kernels in float32.

    `threads`: None for as many as this process may use. Raises OptionError, StoreError, CheckpointError or
    UnsupportedError.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = open_encoder_checkpoint(ModelStore(home or default_home()).resolve(name))
    tokenizer = open_tokenizer(checkpoint)
    tensors = {part: held_as(part, one, weights) for part, one in checkpoint.stored().items()}
    extension, _ = choose_kernels(kernels, torch.device("cpu"))
    backend: EncoderBackend
    if extension is None:
        backend = ReferenceEncoder(checkpoint.spec).load((part, one.floats()) for part, one in tensors.items())
    else:
        backend = CpuEncoder(checkpoint.spec, extension, threads=threads or available_threads()).load(tensors)
    return Encoder(checkpoint.spec, backend), tokenizer, checkpoint
