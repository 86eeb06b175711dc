"""A model opened whole: checkpoint, decoder and tokenizer, composed for the rooms that use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from landrace.checkpoints import Checkpoint, open_checkpoint
from landrace.checkpoints.adapter import read_adapter
from landrace.checkpoints.store import ModelStore, default_home
from landrace.engine import Engine, EngineOptions
from landrace.errors import OptionError
from landrace.kernels.capability import native_bfloat16
from landrace.models.decoder import Decoder
from landrace.text import Tokenizer, load_tokenizer, tokenizer_from_gguf

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Model:
    """What `open_model` returns."""

    name: str
    checkpoint: Checkpoint
    decoder: Decoder
    tokenizer: Tokenizer


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """auto: bfloat16 on a GPU that has it; float32 on a CPU, where a request's tokens must not depend on its batch."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and native_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise OptionError(f"There is no dtype {name!r}.", hint=f"Choose auto, {' or '.join(DTYPES)}.")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """The name `open_model` takes a dtype by."""
    return next(name for name, value in DTYPES.items() if value == dtype)


def training_product_dtype(name: str, device: torch.device) -> torch.dtype:
    """What products run in while tuning. auto: bfloat16 where the hardware has it, else float32."""
    if name == "auto":
        return torch.bfloat16 if native_bfloat16(device) else torch.float32
    return resolve_dtype(name, device)


def open_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer that came with the weights."""
    if checkpoint.format == "gguf":
        return tokenizer_from_gguf(checkpoint.metadata)
    return load_tokenizer(checkpoint.path)


def open_model(
    name: str,
    *,
    dtype: str = "auto",
    product_dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    home: Path | None = None,
) -> Model:
    """Opens a model by store name, folder or `.gguf` path.

    `dtype` is auto, float32 or bfloat16 and says how matrices are held; `product_dtype` what their products run in
    (default: the same). Raises StoreError, CheckpointError or UnsupportedError.
    """
    device = device or default_device()
    path = ModelStore(home or default_home()).resolve(name)
    checkpoint = open_checkpoint(path)
    tokenizer = open_tokenizer(checkpoint)
    decoder = Decoder(checkpoint.spec, dtype=resolve_dtype(dtype, device), product_dtype=product_dtype)
    decoder.load(checkpoint.tensors(), device=device)
    return Model(name=name, checkpoint=checkpoint, decoder=decoder, tokenizer=tokenizer)


@dataclass(frozen=True)
class ServingModel:
    """A model and the engine that serves it."""

    model: Model
    engine: Engine


def open_engine(
    name: str,
    *,
    adapters: Mapping[str, Path] | None = None,
    dtype: str = "auto",
    threads: int | None = None,
    options: EngineOptions | None = None,
) -> ServingModel:
    """Opens a model and an engine on it, with `adapters` (name to peft folder) ready to be asked for."""
    if threads is not None:
        torch.set_num_threads(threads)
    model = open_model(name, dtype=dtype)
    engine = Engine(model.decoder, model.tokenizer, options or EngineOptions())
    for adapter, folder in (adapters or {}).items():
        spec, tensors, _ = read_adapter(folder, model.checkpoint.hub_sources)
        engine.add_adapter(adapter, spec, tensors)
    return ServingModel(model, engine)
