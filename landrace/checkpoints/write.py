"""`write_checkpoint`: canonical tensors back into a hub-style folder, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from landrace.checkpoints.folder import whole_folder
from landrace.checkpoints.safetensors_file import INDEX_NAME, SINGLE_NAME
from landrace.checkpoints.tensor_info import TensorInfo
from landrace.errors import CheckpointError
from landrace.models.families.weights import Source, total_rows

SHARD_BYTES = 5_000_000_000
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "tiktoken.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
StoredAs = Callable[[str, Tensor], Mapping[str, Tensor]]
"""From a stored tensor to the tensors that a file holds in place of it, by name."""


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    sources: Mapping[str, Source],
    named_tensors: Iterable[tuple[str, Tensor]],
    extra_files: Iterable[Path] = (),
    *,
    beside: Iterable[TensorInfo] = (),
    shard_bytes: int = SHARD_BYTES,
    stored_as: StoredAs = lambda name, tensor: {name: tensor},
) -> None:
    """Write config.json and safetensors under the hub names of `sources`, and copy `extra_files` beside them and the
    tensors `beside` among them.

    `named_tensors` is read once, and about `shard_bytes` of it is held at a time. The configuration's dtype becomes
    that of the tensors. `stored_as`: what a stored tensor that is made of them becomes in the file. CheckpointError: a
    parameter is unknown, missing, repeated or of the wrong shape, or `folder` holds files that are not a model's.
    """
    extras = list(extra_files)
    with whole_folder(folder, may_replace=lambda name: _is_ours(name, extras)) as made:
        shards = _Shards(made, sources, shard_bytes, stored_as)
        for name, tensor in named_tensors:
            shards.add(name, tensor)
        for info in beside:
            shards.keep(info.name, info.load())
        shards.finish()
        written = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
        write_json(made / "config.json", written | {"torch_dtype": shards.dtype_name()})
        for path in extras:
            shutil.copyfile(path, made / path.name)


def tokenizer_files(folder: Path) -> list[Path]:
    """What a model folder holds beside the weights and their configuration."""
    return [path for name in TOKENIZER_FILES if (path := folder / name).is_file()]


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """One safetensors file, marked as PyTorch's as other readers expect."""
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise CheckpointError(f"{path} could not be written: {error}.") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(
        json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n",
        encoding="utf-8",
        errors="backslashreplace",
    )


def _is_ours(name: str, extras: list[Path]) -> bool:
    shard = name.startswith("model") and name.endswith(".safetensors")
    return shard or name in {"config.json", INDEX_NAME, *(path.name for path in extras)}


class _Shards:
    """Assembles stored tensors out of their canonical parts and writes a shard whenever enough are whole."""

    def __init__(self, folder: Path, sources: Mapping[str, Source], shard_bytes: int, stored_as: StoredAs) -> None:
        self._folder = folder
        self._stored_as = stored_as
        self._sources = sources
        self._shard_bytes = shard_bytes
        self._absent = set(sources)
        self._waiting: dict[str, set[str]] = {}
        self._rows = total_rows(sources.values())
        for name, source in sources.items():
            for stored in source.tensors:
                self._waiting.setdefault(stored, set()).add(name)
        self._begun: dict[str, Tensor] = {}
        self._whole: dict[str, Tensor] = {}
        self._written: list[dict[str, int]] = []
        self._dtypes: set[torch.dtype] = set()

    def add(self, name: str, tensor: Tensor) -> None:
        source = self._sources.get(name)
        if source is None or name not in self._absent:
            reason = "is not a parameter of this model" if source is None else "was given twice"
            raise CheckpointError(f"'{name}' {reason}.")
        self._absent.discard(name)
        tensor = tensor.detach().cpu()
        shape = source.stored_shape(tuple(tensor.shape), self._rows.get(source.tensors[0]))
        for stored in source.tensors:
            if stored not in self._begun:
                self._begun[stored] = torch.zeros(shape, dtype=tensor.dtype)
        source.put(self._begun, tensor)
        self._dtypes.add(tensor.dtype)
        for stored in source.tensors:
            self._waiting[stored].discard(name)
            if not self._waiting[stored]:
                for kept, part in self._stored_as(stored, self._begun.pop(stored)).items():
                    self.keep(kept, part)

    def keep(self, name: str, tensor: Tensor) -> None:
        """A tensor as the files hold it."""
        if self._whole and sum(t.nbytes for t in self._whole.values()) + tensor.nbytes > self._shard_bytes:
            self._flush()
        self._whole[name] = tensor

    def finish(self) -> None:
        """Write what is left and give the shards their names."""
        if self._absent:
            raise CheckpointError(f"{len(self._absent)} parameters were not given, such as '{min(self._absent)}'.")
        self._flush()
        count = len(self._written)
        if count == 1:
            self._part(0).rename(self._folder / SINGLE_NAME)
            return
        weight_map: dict[str, str] = {}
        for number, sizes in enumerate(self._written):
            shard = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
            self._part(number).rename(self._folder / shard)
            weight_map |= dict.fromkeys(sizes, shard)
        total = sum(size for sizes in self._written for size in sizes.values())
        write_json(self._folder / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})

    def dtype_name(self) -> str:
        """The widest of the floating-point dtypes written: readers that convert to it lose nothing."""
        floats = [dtype for dtype in self._dtypes if dtype.is_floating_point]
        widest = max(floats, key=lambda dtype: (dtype.itemsize, str(dtype)))
        return str(widest).removeprefix("torch.")

    def _flush(self) -> None:
        save_tensors(self._part(len(self._written)), self._whole)
        self._written.append({name: tensor.nbytes for name, tensor in self._whole.items()})
        self._whole = {}

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number}"
