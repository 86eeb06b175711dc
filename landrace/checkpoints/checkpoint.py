"""`open_checkpoint`: a model on disk as a `ModelSpec` and a stream of canonical tensors.

Everything in the files is accounted for: a stored tensor is used, or on a list of those that may be left out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from landrace.checkpoints.bounded import file_size, read_json, read_range, readable
from landrace.checkpoints.gguf_file import read_gguf
from landrace.checkpoints.parameters import stored_parameters
from landrace.checkpoints.quantised import unpacked, without_settings
from landrace.checkpoints.safetensors_file import read_safetensors_folder
from landrace.checkpoints.tensor_info import PLAIN, Readable, TensorInfo
from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.families import BUFFERS, read_config
from landrace.models.families.gguf import (
    config_from_gguf,
    gguf_drafts,
    gguf_heads_in_rounds,
    gguf_ignorable,
    gguf_sources,
)
from landrace.models.families.weights import Shape, Source
from landrace.models.spec import ModelSpec
from landrace.models.stored import StoredTensor

MAX_CONFIG_BYTES = 1 << 22
NAMES_IN_ERROR = 5
READ_BYTES = 1 << 24
HEAD = re.compile(r"(.*\.)?(lm_head|output_layer|output)\.weight")
SCORE = "score.weight"

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


@dataclass
class Checkpoint:
    """An opened model: its description, and where its tensors are. Nothing of the weights is in memory."""

    path: Path
    format: Literal["safetensors", "gguf"]
    config: dict[str, Any]
    """A `config.json`; for GGUF, the one that its metadata amount to."""
    spec: ModelSpec
    sources: dict[str, Source]
    """Canonical parameter name to the stored tensors that make it."""
    tensor_infos: Mapping[str, TensorInfo]
    """Stored name to description, for every tensor in the files."""
    tensors_read: Mapping[str, Readable]
    """The same as sources read them: what several tensors of a quantised form make is one."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """GGUF key-values; empty for safetensors."""
    generation_config: dict[str, Any] = field(default_factory=dict)
    """`generation_config.json`; empty when there is none."""
    left_out: tuple[str, ...] = ()
    """Tensors of layers that guess tokens after the next one."""
    adapter_sources: tuple[dict[str, Source], ...] = field(default=(), repr=False)
    """Where the hub's models keep each parameter, in every way that adapters may name them; the first to write."""
    score: StoredTensor | None = None
    """The head [n_labels, d_model] of a model that was made a classifier: it has none for tokens, and its embedding
    stands in there, which nobody should ask."""
    _sha256: str | None = field(default=None, repr=False)

    @property
    def hub_sources(self) -> dict[str, Source]:
        """Where the hub's unquantised files keep each parameter. Written models use these names, whatever form the
        weights came in."""
        if self.format == "gguf":
            return read_config(self.config, heads_in_rounds=self.spec.heads_in_rounds).sources
        if self.tensors_read is self.tensor_infos:
            return self.sources
        # Their names tell the prefix; their shapes would tell the layout that only a quantised form has.
        return read_config(self.config, dict.fromkeys(self.tensors_read, ())).sources

    def with_mtp(self) -> Checkpoint:
        """The same with the layer that guesses the token after the next one.

        Raises UnsupportedError where the files do not hold one as the model's family has it.
        """
        if self.format == "gguf":
            model = read_config(self.config, heads_in_rounds=self.spec.heads_in_rounds, mtp=True)
            sources = gguf_sources(model.spec, self.metadata["general.architecture"], self.tensor_infos)
        else:
            shapes = {name: tensor.shape for name, tensor in self.tensors_read.items()}
            model = read_config(self.config, shapes, mtp=True)
            sources = model.sources
        used = {tensor for source in sources.values() for tensor in source.tensors}
        if missing := used - self.tensors_read.keys():
            raise UnsupportedError(
                f"{self.path} has no layer that guesses further tokens (MTP): it lacks {_some(missing)}.",
                hint="Choose --draft ngram or a smaller model's name.",
            )
        read: Mapping[str, Readable] = self.tensors_read
        infos = self.tensor_infos
        if self.format == "gguf":
            read = infos = with_ones(sources, infos, model.shapes)
        stored_parameters(sources, read)
        left_out = tuple(name for name in self.left_out if name not in used)
        opened = self.spec.max_length
        spec = model.spec if opened == model.spec.max_length else model.spec.for_length(opened)
        return replace(self, spec=spec, sources=sources, tensor_infos=infos, tensors_read=read, left_out=left_out)

    @property
    def beside_text(self) -> list[TensorInfo]:
        """The hub's tensors of numbers that the logits of text do not need, as those of towers, but no copies of a tied
        head, and nothing that follows from the configuration."""
        if self.format == "gguf":
            return []
        used = {tensor for source in self.sources.values() for tensor in source.tensors}
        used |= set(matching(self.tensors_read, (HEAD.pattern, *BUFFERS)))
        left = [tensor for name, tensor in self.tensors_read.items() if name not in used]
        return [tensor for tensor in left if isinstance(tensor, TensorInfo) and tensor.dtype in PLAIN]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(canonical name, values), one parameter in memory at a time. F32, F16 and BF16 come as stored, the block
        formats of GGUF as float32. Each tensor may be kept and changed: none shares memory with another."""
        for name, stored in self.stored().items():
            yield name, stored.floats()

    def stored(self) -> dict[str, StoredTensor]:
        """Canonical name to the parameter as the files store it; nothing is read yet."""
        self._check_tied_head()
        return stored_parameters(self.sources, self.tensors_read)

    def sha256(self, progress: Progress | None = None) -> str:
        """SHA-256 of the weights, kept once it is known. One file: that of the file. Several: that of the lines
        `<sha256>  <file name>\\n`, sorted by file name."""
        if self._sha256 is None:
            self._sha256 = hash_files({info.path for info in self.tensor_infos.values()}, progress)
        return self._sha256

    def _check_tied_head(self) -> None:
        """A model that ties its head to its embedding may store the head too, if it is the same."""
        if "lm_head.weight" in self.sources:
            return
        embedding = self.tensors_read[self.sources["embed_tokens.weight"].tensor]
        for name, tensor in self.tensors_read.items():
            if HEAD.fullmatch(name) and not _same_bytes(tensor, embedding):
                raise UnsupportedError(
                    f"The model says that its output head is its embedding, but '{name}' differs from it.",
                    hint="Set tie_word_embeddings to false in its config.json if the stored head is the right one.",
                )


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a folder with config.json and safetensors, or a .gguf file.

    CheckpointError: damaged, or the tensors are not the ones that the configuration needs.
    UnsupportedError: well formed, but of a family, quantisation or type that is not implemented.
    """
    with readable(path):
        checkpoint = _open_folder(path) if path.is_dir() else _open_gguf(path)
    stored_parameters(checkpoint.sources, checkpoint.tensors_read)
    return checkpoint


def _open_gguf(path: Path) -> Checkpoint:
    file = read_gguf(path)
    config = config_from_gguf(file.metadata, file.tensors, lambda name: _numbers(path, file.tensors, name))
    model = read_config(config, heads_in_rounds=gguf_heads_in_rounds(file.metadata))
    sources = gguf_sources(model.spec, file.metadata["general.architecture"], file.tensors)
    check_names(path, sources, file.tensors, gguf_ignorable(config))
    infos = with_ones(sources, file.tensors, model.shapes)
    return Checkpoint(
        path,
        "gguf",
        config,
        model.spec,
        sources,
        infos,
        infos,
        file.metadata,
        left_out=matching(infos, gguf_drafts(config)),
        adapter_sources=model.adapter_sources,
    )


def matching(names: Iterable[str], patterns: Iterable[str]) -> tuple[str, ...]:
    """Those that match a regex whole, in order."""
    known = [re.compile(pattern) for pattern in patterns]
    return tuple(sorted(name for name in names if any(pattern.fullmatch(name) for pattern in known)))


def with_ones(
    sources: Mapping[str, Source], infos: Mapping[str, TensorInfo], shapes: Mapping[str, Shape]
) -> dict[str, TensorInfo]:
    """The tensors with axes of length 1 as the parameters have them: converters keep some and drop others."""
    found = dict(infos)
    for name, shape in shapes.items():
        info = infos[sources[name].tensor]
        source = sources[name]
        whole = source.stored_shape(shape, None if source.rows is None else info.shape[0])
        if source.stacked is None and _without_ones(info.shape) == _without_ones(whole):
            found[info.name] = replace(info, shape=whole)
    return found


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def _numbers(path: Path, infos: Mapping[str, TensorInfo], name: str) -> list[float]:
    """The values of a small tensor that belongs to the configuration."""
    if name not in infos or infos[name].nbytes > MAX_CONFIG_BYTES:
        raise CheckpointError(f"{path} needs a small tensor '{name}', and has none.")
    values: list[float] = infos[name].load().flatten().tolist()
    return values


def _open_folder(path: Path) -> Checkpoint:
    if not (path / "config.json").is_file():
        files = sorted(path.glob("*.gguf"))
        hint = f"Name the file itself: {files[0]}" if files else "A model folder holds config.json and *.safetensors."
        raise CheckpointError(f"{path} has no config.json.", hint=hint)
    config = read_json(path / "config.json", MAX_CONFIG_BYTES)
    generation = path / "generation_config.json"
    generation_config = read_json(generation, MAX_CONFIG_BYTES) if generation.is_file() else {}
    infos = read_safetensors_folder(path)
    found = unpacked(config, infos)
    config = without_settings(config)
    classifies = _classifies(config)
    if classifies:
        config = {**config, "tie_word_embeddings": True}
    model = read_config(config, {name: tensor.shape for name, tensor in found.items()})
    check_names(path, model.sources, found, (*model.ignorable, re.escape(SCORE)) if classifies else model.ignorable)
    return Checkpoint(
        path,
        "safetensors",
        config,
        model.spec,
        model.sources,
        infos,
        found,
        generation_config=generation_config,
        left_out=matching(found, model.drafts),
        adapter_sources=model.adapter_sources,
        score=stored_parameters({SCORE: Source(SCORE)}, found)[SCORE] if classifies and SCORE in found else None,
    )


def _classifies(config: Mapping[str, Any]) -> bool:
    """Whether transformers would open it as a decoder with a classifier's head, which is called `score`."""
    names = config.get("architectures")
    return isinstance(names, list) and any(str(name).endswith("ForSequenceClassification") for name in names)


def check_names(
    path: Path, sources: Mapping[str, Source], infos: Mapping[str, Readable], ignorable: Iterable[str]
) -> None:
    """CheckpointError unless every tensor that is needed is there, and every other one may be left out."""
    needed = {tensor for source in sources.values() for tensor in source.tensors}
    if missing := needed - infos.keys():
        raise CheckpointError(f"{path} lacks {_some(missing)} that its configuration needs.")
    left_over = infos.keys() - needed - set(matching(infos, ignorable))
    if left_over:
        raise CheckpointError(f"{path} holds {_some(left_over)} that its configuration has no place for.")


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:NAMES_IN_ERROR])
    more = f" and {len(names) - NAMES_IN_ERROR} more" if len(names) > NAMES_IN_ERROR else ""
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''} ({shown}{more})"


def _same_bytes(one: Readable, other: Readable) -> bool:
    if (one.dtype, one.shape, one.nbytes) != (other.dtype, other.shape, other.nbytes):
        return False
    step = max(1, READ_BYTES * one.shape[0] // max(one.nbytes, 1))
    for at in range(0, one.shape[0], step):
        rows = (at, min(at + step, one.shape[0]))
        if not torch.equal(_bytes(one.part(rows)), _bytes(other.part(rows))):
            return False
    return True


def _bytes(tensor: Readable) -> Tensor:
    out = torch.empty(tensor.nbytes, dtype=torch.uint8)
    tensor.read_into(out)
    return out


def hash_files(paths: set[Path], progress: Progress | None) -> str:
    """See `Checkpoint.sha256`."""
    total, done = sum(file_size(path) for path in paths), 0
    sums: dict[str, str] = {}
    for path in sorted(paths):
        digest = hashlib.sha256()
        size = file_size(path)
        for at in range(0, size, READ_BYTES):
            count = min(READ_BYTES, size - at)
            digest.update(read_range(path, at, count).numpy().data)
            done += count
            if progress is not None:
                progress(done, total)
        sums[path.name] = digest.hexdigest()
    if len(sums) == 1:
        return next(iter(sums.values()))
    return hashlib.sha256("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()).hexdigest()
