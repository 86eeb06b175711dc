"""A model opened whole: checkpoint, decoder and tokenizer, composed for the rooms that use them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Generic, Literal, TypeVar, get_args

import torch

from landrace.checkpoints import Checkpoint, open_checkpoint
from landrace.checkpoints.adapter import read_adapter
from landrace.checkpoints.encoder_checkpoint import EncoderCheckpoint
from landrace.checkpoints.parameters import read_by
from landrace.checkpoints.store import ModelStore, default_home
from landrace.checkpoints.tensor_info import DecodedTensor
from landrace.engine import Engine, EngineOptions
from landrace.engine.cache.memory import CACHE_DTYPES
from landrace.engine.options import MTP
from landrace.errors import OptionError, UnsupportedError
from landrace.kernels.capability import native_bfloat16
from landrace.kernels.cpu import MISSING, native
from landrace.kernels.cpu.weights import KINDS
from landrace.kernels.layer_cache import LayerMemory
from landrace.kernels.mask import FULL
from landrace.models.cache_spec import Paged
from landrace.models.cpu_decoder import CpuDecoder, cache_dtype_beside, keeps, new_cpu_cache
from landrace.models.decoder import Decoder
from landrace.models.graph_decoder import GraphDecoder
from landrace.models.serving import ServingDecoder
from landrace.models.spec import ModelSpec
from landrace.models.stored import WEIGHTS, Weights, held_as
from landrace.text import Tokenizer, load_tokenizer, tokenizer_from_gguf

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Kernels = Literal["auto", "cpu", "reference"]
"""auto: the C++ kernels on a CPU where they are built, else the reference."""
KERNELS: tuple[Kernels, ...] = get_args(Kernels)


DecoderT = TypeVar("DecoderT", bound=ServingDecoder, covariant=True)


@dataclass(frozen=True)
class Model(Generic[DecoderT]):
    """A checkpoint, its decoder in memory, and its tokenizer."""

    name: str
    checkpoint: Checkpoint
    decoder: DecoderT
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


def training_product_dtype(name: str, device: torch.device) -> str:
    """What products run in while tuning. auto: bfloat16 where the hardware has it, else float32."""
    if name == "auto":
        return "bfloat16" if native_bfloat16(device) else "float32"
    return name


def open_tokenizer(checkpoint: Checkpoint | EncoderCheckpoint) -> Tokenizer:
    """The tokenizer that came with the weights."""
    if checkpoint.format == "gguf":
        return tokenizer_from_gguf(checkpoint.metadata)
    return load_tokenizer(checkpoint.path)


def open_model(
    name: str,
    *,
    dtype: str = "auto",
    product_dtype: str | None = None,
    device: torch.device | None = None,
    max_length: int | None = None,
    home: Path | None = None,
) -> Model[Decoder]:
    """Opens a model by store name, folder or `.gguf` path on the reference kernels: differentiable, on any device.

    `dtype` is auto, float32 or bfloat16 and says how matrices are held; `product_dtype`, by the same names, what their
    products run in (default: the same). `max_length`: the longest sequence it is opened for (see
    `ModelSpec.for_length`); None: what it was trained at. Raises OptionError, StoreError, CheckpointError or
    UnsupportedError.
    """
    device = device or default_device()
    held = resolve_dtype(dtype, device)
    products = held if product_dtype is None else resolve_dtype(product_dtype, device)
    checkpoint = _writer(_open(name, max_length, home))
    tokenizer = open_tokenizer(checkpoint)
    decoder = Decoder(checkpoint.spec, dtype=held, product_dtype=products)
    decoder.load(checkpoint.tensors(), device=device)
    return Model(name=name, checkpoint=checkpoint, decoder=decoder, tokenizer=tokenizer)


@dataclass(frozen=True)
class ServingModel:
    """What `open_engine` returns: a model and the engine that serves it."""

    model: Model[ServingDecoder]
    engine: Engine
    kernels: str
    """The C++ kernels' instruction set, or reference."""
    notice: str | None
    """What the user should know about how it is served; None: nothing."""

    def load_adapter(self, name: str, folder: Path) -> None:
        """Makes a peft adapter available to requests by `name`. Raises what `read_adapter` and `Engine.add_adapter`
        raise."""
        spec, tensors, _ = read_adapter(folder, *self.model.checkpoint.adapter_sources)
        self.engine.add_adapter(name, spec, tensors)


def open_engine(
    name: str,
    *,
    adapters: Mapping[str, Path] | None = None,
    weights: str = "stored",
    kernels: str = "auto",
    threads: int | None = None,
    options: EngineOptions | None = None,
    home: Path | None = None,
    classifier: bool = False,
) -> ServingModel:
    """Opens a model by store name, folder or `.gguf` path, and an engine on it, with `adapters` (name to peft folder)
    ready to be asked for. `classifier`: also one that has no head for tokens, and is only read.

    `options.draft` may name a smaller model, which is opened as well, or ask for the model's own layer for further
    tokens. `threads`: None for as many as this process may use. Raises OptionError for what this machine cannot do.
    """
    device = default_device()
    held = known_weights(weights)
    if threads is not None:
        torch.set_num_threads(threads)
    options = options or EngineOptions()
    checkpoint = _open(name, options.max_length, home)
    checkpoint = checkpoint if classifier else _writer(checkpoint)
    if options.draft == MTP:
        checkpoint = checkpoint.with_mtp()
    tokenizer = open_tokenizer(checkpoint)
    extension, missing = choose_kernels(kernels, device)

    def decoder_of(opened: Checkpoint) -> ServingDecoder:
        if extension is None:
            decoder = _reference_decoder(opened, held, device)
            return decoder if device.type == "cpu" else GraphDecoder(decoder)
        return cpu_decoder(opened, extension, weights=held, threads=threads)

    draft_model: ServingDecoder | None = None
    if options.draft_model is not None:
        drafts = _open(options.draft_model, None, home)
        _check_same_tokens(name, tokenizer, options.draft_model, open_tokenizer(drafts))
        draft_model = decoder_of(drafts)
    decoder = decoder_of(checkpoint)
    engine = Engine(decoder, tokenizer, options, draft_model=draft_model)
    told = (
        missing,
        unpacked_notice(checkpoint, decoder) if held == "stored" else None,
        slow_notice(decoder),
        left_out_notice(checkpoint),
        length_notice(checkpoint.spec),
    )
    notices = [text for text in told if text is not None]
    used = decoder.isa if isinstance(decoder, CpuDecoder) else "reference"
    opened = ServingModel(Model(name, checkpoint, decoder, tokenizer), engine, used, " ".join(notices) or None)
    for adapter, folder in (adapters or {}).items():
        opened.load_adapter(adapter, folder)
    return opened


def known_weights(name: str) -> Weights:
    """How weights are held, by its name. OptionError for another."""
    held = next((choice for choice in WEIGHTS if choice == name), None)
    if held is None:
        raise OptionError(f"Weights cannot be held as {name!r}.", hint=f"Choose {', '.join(WEIGHTS)}.")
    return held


def _check_same_tokens(name: str, tokenizer: Tokenizer, draft: str, other: Tokenizer) -> None:
    """OptionError unless every number that is a token of both is the same token. One may have tokens that the other
    lacks: sizes of one family are padded differently."""
    n_tokens = min(one.backend.get_vocab_size() for one in (tokenizer, other))
    texts = ((tokenizer.token_text(token), other.token_text(token)) for token in range(n_tokens))
    different = sum(own is not None and theirs is not None and own != theirs for own, theirs in texts)
    if different:
        raise OptionError(
            f"{draft} cannot write drafts for {name}: {different} of their {n_tokens} tokens differ.",
            hint="Choose a model of the same family, or --draft ngram.",
        )


def slow_notice(decoder: ServingDecoder) -> str | None:
    """What to tell the user of a model that the C++ kernels do not compute alone."""
    if not decoder.slow:
        return None
    return f"The C++ kernels leave {', '.join(decoder.slow)} to PyTorch, which is slower."


def unpacked_notice(checkpoint: Checkpoint, decoder: ServingDecoder) -> str | None:
    """What to tell the user of quantised matrices that the C++ kernels hold as float32."""
    if not isinstance(decoder, CpuDecoder):
        return None
    wide = set()
    for name, source in checkpoint.sources.items():
        read = read_by(source, checkpoint.tensors_read)
        size = math.prod(source.shape({tensor: one.shape for tensor, one in read.items()}))
        for tensor, one in read.items():
            as_floats = isinstance(one, DecodedTensor) and one.dtype == "F32"
            reordered = one.order is not None and decoder.held_bytes[name] >= 4 * size
            if as_floats or reordered or one.dtype not in KINDS:
                wide.add(tensor)
    if not wide:
        return None
    return (
        f"The C++ kernels do not multiply with {len(wide)} of its quantised matrices as they are stored; unpacked, the "
        f"weights take {decoder.weight_bytes / 1e9:.2f} GB of memory. --weights int8 or int4 take less."
    )


def left_out_notice(checkpoint: Checkpoint) -> str | None:
    """What to tell the user of layers that guess tokens after the next one, and that nobody asks."""
    if not checkpoint.left_out:
        return None
    first, *others = checkpoint.left_out
    more = f" and {len(others)} more tensors" if others else ""
    return f"Left out: {first}{more}, which guess tokens after the next one."


def length_notice(spec: ModelSpec) -> str | None:
    """What to tell the user of a model that computes otherwise when it is opened for longer sequences."""
    trained, limit = spec.trained_length, spec.length_limit or spec.max_length
    if trained is None or limit <= trained:
        return None
    told = f"Positions are those of sequences of up to {spec.max_length} tokens"
    if spec.stretched:
        return f"{told}, for short texts too; it was trained at {trained}: open it with one --max-length everywhere."
    return f"{told}; --max-length opens the model for up to {limit}, with other positions beyond {trained}."


def _open(name: str, max_length: int | None, home: Path | None) -> Checkpoint:
    checkpoint = open_checkpoint(ModelStore(home or default_home()).resolve(name))
    if max_length is None:
        return checkpoint
    return replace(checkpoint, spec=checkpoint.spec.for_length(max_length))


def _writer(checkpoint: Checkpoint) -> Checkpoint:
    """The same, of a model that writes text. UnsupportedError for a classifier."""
    if checkpoint.score is not None:
        raise UnsupportedError(
            f"{checkpoint.path} is a classifier: it judges texts and writes none.",
            hint="Use it with `landrace rerank`.",
        )
    return checkpoint


def choose_kernels(asked: str, device: torch.device) -> tuple[ModuleType | None, str | None]:
    """The C++ kernels, or None for the reference; and what to tell the user about it."""
    if asked not in KERNELS:
        raise OptionError(f"There are no kernels {asked!r}.", hint=f"Choose {', '.join(KERNELS)}.")
    if asked == "reference" or (asked == "auto" and device.type != "cpu"):
        return None, None
    extension = native()
    if extension is None:
        if asked == "cpu":
            raise OptionError("The C++ kernels are not built.", hint="Install a C++ compiler, then Landrace again.")
        return None, MISSING
    return extension, None


def cpu_decoder(
    checkpoint: Checkpoint, extension: ModuleType, *, weights: Weights = "stored", threads: int | None = None
) -> CpuDecoder:
    """The checkpoint on the C++ kernels in `extension`; `threads` None: as many as this process may use."""
    decoder = CpuDecoder(checkpoint.spec, extension, threads=threads or available_threads())
    tensors = checkpoint.stored()
    return decoder.load({name: held_as(name, t, weights, decoder.quantize_weights) for name, t in tensors.items()})


def kernels_notice(asked: str) -> str | None:
    """What to tell the user of an encoder's kernels, which compute on the processor."""
    return choose_kernels(asked, torch.device("cpu"))[1]


@dataclass(frozen=True)
class CacheNeeds:
    """Bytes that one sequence takes in the cache."""

    a_token: float
    """Of each of its tokens, in layers that see all of the past."""
    at_most: float
    """However long it is, in layers that see a window or have a state."""


def cache_needs(checkpoint: Checkpoint) -> dict[str, CacheNeeds]:
    """Of `open_engine` on this machine, by what keys and values are kept in: first as it is unless told otherwise, then
    in each type that takes less. Reads no weights."""
    spec, device = checkpoint.spec, default_device()
    extension, _ = choose_kernels("auto", device)
    n_slots = 1 if extension is None else extension.TILE
    slots = [n_slots] * len(spec.cache_groups)
    if extension is None:
        kept_in = torch.float32 if device.type == "cpu" else resolve_dtype("auto", device)  # as `GraphDecoder` has it
        layers = Decoder(spec).new_cache(slots, kept_in)
        return {str(kept_in).removeprefix("torch."): _needs(spec, layers, n_slots)}
    stored = checkpoint.stored().items()
    matrices = (one.block_type for name, one in stored if len(one.shape) == 2 and not name.endswith(".table"))
    has_keys = any(isinstance(group.spec, Paged) for group in spec.cache_groups)
    usual = cache_dtype_beside(matrices) if has_keys else torch.float32
    found: dict[str, CacheNeeds] = {}
    least = math.inf
    for name, dtype in CACHE_DTYPES.items():
        if dtype == usual or (found and dtype is not None and keeps(spec, dtype)):
            needs = _needs(spec, new_cpu_cache(extension, spec, slots, dtype), n_slots)
            if needs.a_token + needs.at_most < least:
                found[name] = needs
                least = needs.a_token + needs.at_most
    return found


def _needs(spec: ModelSpec, layers: Sequence[LayerMemory], n_slots: int) -> CacheNeeds:
    """Of a cache for so many slots."""
    a_token = at_most = 0.0
    for group, in_all in zip(spec.cache_groups, spec.bytes_by_group(layers), strict=True):
        n_bytes = in_all / n_slots
        match group.spec:
            case Paged(mask, every) if mask == FULL:
                a_token += n_bytes / every
            case Paged():
                at_most += n_bytes * ((group.spec.reach or 0) + 1)
            case _:
                at_most += n_bytes
    return CacheNeeds(a_token, at_most)


def available_threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reference_decoder(checkpoint: Checkpoint, weights: Weights, device: torch.device) -> Decoder:
    if weights in ("int8", "int4"):
        tensors = ((name, held_as(name, t, weights).floats()) for name, t in checkpoint.stored().items())
        return Decoder(checkpoint.spec).load(tensors, device=device)
    dtype = resolve_dtype("auto" if weights == "stored" else weights, device)
    return Decoder(checkpoint.spec, dtype=dtype).load(checkpoint.tensors(), device=device)
