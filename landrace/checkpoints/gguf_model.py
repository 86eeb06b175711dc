"""A changed model back into GGUF: the file it came from, with other weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from landrace.checkpoints.checkpoint import Checkpoint
from landrace.checkpoints.folder import whole_folder
from landrace.checkpoints.gguf_write import write_gguf
from landrace.errors import CheckpointError
from landrace.models.stored import WHOLE

FILE_NAME = "model.gguf"
_ALL_F32 = 0
"""ggml's file type for a file whose matrices are all float32."""


def write_gguf_model(folder: Path, origin: Checkpoint, tensors: Mapping[str, Tensor]) -> Path:
    """Writes `folder`/model.gguf with `origin`'s metadata (tokenizer and template included) and `tensors`, every
    parameter by canonical name, in float32 but for whole numbers; what is no parameter is copied as it is stored.
    Returns the file.

    CheckpointError when a parameter is missing or left over, or the folder holds something else.
    """
    if set(tensors) != set(origin.sources):
        odd = min(set(tensors) ^ set(origin.sources))
        raise CheckpointError(f"The parameters are not those of {origin.path}: {odd!r} is missing or left over.")
    replaced = {tensor for source in origin.sources.values() for tensor in source.tensors}
    stored: dict[str, tuple[Tensor, str]] = {
        name: (info.raw(), info.dtype) for name, info in origin.tensor_infos.items() if name not in replaced
    }
    kinds = {name: origin.tensor_infos[name].dtype for name in replaced}
    kinds = {name: kind if kind in WHOLE else "F32" for name, kind in kinds.items()}
    filled = {
        name: torch.zeros(origin.tensor_infos[name].shape, dtype=WHOLE.get(kind, torch.float32))
        for name, kind in kinds.items()
    }
    for name, source in origin.sources.items():
        source.put(filled, tensors[name].detach().to(filled[source.tensors[0]].dtype).cpu())
        stored |= {one: (filled[one], kinds[one]) for one in source.tensors}
    metadata = {**origin.metadata, "general.file_type": _ALL_F32}
    with whole_folder(folder, may_replace=lambda name: name == FILE_NAME) as made:
        write_gguf(made / FILE_NAME, metadata, stored)
    return folder / FILE_NAME
