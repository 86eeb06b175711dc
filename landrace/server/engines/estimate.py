"""What an engine on a model takes of memory, and what the model can do: from its files, without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType

import torch

from landrace.checkpoints import Checkpoint, open_checkpoint
from landrace.checkpoints.adapter import TENSORS_NAME
from landrace.checkpoints.encoder_checkpoint import EncoderCheckpoint, is_encoder, open_encoder_checkpoint
from landrace.checkpoints.store import ModelStore, default_home
from landrace.embedding.judges import YesNoJudge
from landrace.embedding.opening import located, transformer_in
from landrace.engine.cache.kinds import slots_of
from landrace.engine.cache.memory import CACHE_DTYPES
from landrace.engine.options import MTP
from landrace.errors import LandraceError
from landrace.model import choose_kernels, default_device, known_weights, open_tokenizer, resolve_dtype
from landrace.models.cpu_decoder import cache_dtype_beside, new_cpu_cache
from landrace.models.declared import params_of
from landrace.models.decoder import Decoder
from landrace.models.encoder_tree import EncoderTree
from landrace.models.packed_weights import packed_bytes
from landrace.models.stored import StoredTensor, held_as
from landrace.server.engines.describing import Description
from landrace.server.engines.messages import EngineSettings
from landrace.text import Tokenizer

_PROCESS_BYTES = 320 << 20
"""The interpreter, PyTorch and the tokenizer; SmolLM2's process has 240 MB before its weights."""
_STEP_ROWS = 8
"""Rows of the width of the model, or of what is between a feed-forward's matrices, that a step's token takes."""


def description(settings: EngineSettings) -> Description:
    """Raises StoreError, CheckpointError, UnsupportedError or OptionError for a model that cannot be opened so."""
    path = transformer_in(located(settings.model, None))
    if is_encoder(path):
        return _of_encoder(open_encoder_checkpoint(path), settings)
    checkpoint = open_checkpoint(path)
    options = settings.options
    if options.max_length is not None:
        checkpoint = replace(checkpoint, spec=checkpoint.spec.for_length(options.max_length))
    if options.draft == MTP:
        checkpoint = checkpoint.with_mtp()
    n_bytes = _PROCESS_BYTES + _engine_bytes(checkpoint, settings)
    if options.draft_model is not None:
        drafts = open_checkpoint(ModelStore(default_home()).resolve(options.draft_model))
        n_bytes += _engine_bytes(drafts, settings)
    files = [folder / TENSORS_NAME for folder in settings.adapters.values()]
    n_bytes += sum(file.stat().st_size for file in files if file.is_file())
    tokenizer = open_tokenizer(checkpoint)
    max_length = min(options.max_length or checkpoint.spec.max_length, options.cache_room)
    return Description(n_bytes, max_length, _capabilities(checkpoint, tokenizer, max_length))


def device_memory(kernels: str) -> int | None:
    """Bytes of the graphics processor that engines compute on; None where they compute in main memory."""
    device = default_device()
    if device.type == "cpu" or choose_kernels(kernels, device)[0] is not None:
        return None
    return torch.cuda.get_device_properties(device).total_memory


def _engine_bytes(checkpoint: Checkpoint, settings: EngineSettings) -> int:
    """Weights as they are held, the cache when it is full, and a step."""
    spec, options, device = checkpoint.spec, settings.options, default_device()
    weights = known_weights(settings.weights)
    extension, _ = choose_kernels(settings.kernels, device)
    n_slots = [slots_of(group.spec, options) for group in spec.cache_groups]
    asked = CACHE_DTYPES[options.cache_dtype]
    if extension is None:
        dtype = resolve_dtype("auto" if weights in ("stored", "int8", "int4") else weights, device)
        decoder = Decoder(spec, dtype=dtype)
        held, layers = decoder.weight_bytes, decoder.new_cache(n_slots, asked or dtype, options.most_guesses)
    else:
        tensors = {name: held_as(name, one, weights) for name, one in checkpoint.stored().items()}
        held = packed_bytes(extension, params_of(Decoder(spec)), tensors)
        kept_in = asked or cache_dtype_beside(_matrix_types(tensors))
        layers = new_cpu_cache(extension, spec, n_slots, kept_in, options.most_guesses)
    cache = sum(n_bytes for layer in layers for n_bytes in layer.group_bytes)
    rows = options.max_step_tokens * _STEP_ROWS * spec.d_model + options.most_running * spec.vocab_size
    return held + cache + 4 * rows


def _matrix_types(tensors: Mapping[str, StoredTensor]) -> list[str]:
    return [one.block_type for name, one in tensors.items() if len(one.shape) >= 2 and not name.endswith(".table")]


def _of_encoder(checkpoint: EncoderCheckpoint, settings: EngineSettings) -> Description:
    extension, _ = choose_kernels(settings.kernels, torch.device("cpu"))
    n_bytes = _PROCESS_BYTES + _encoder_bytes(checkpoint, settings, extension)
    ability = "embedding" if checkpoint.spec.classifier is None else "rerank"
    return Description(n_bytes, checkpoint.spec.max_length, (ability,))


def _encoder_bytes(checkpoint: EncoderCheckpoint, settings: EngineSettings, extension: ModuleType | None) -> int:
    params = params_of(EncoderTree(checkpoint.spec))
    if extension is None:
        return 4 * sum(param.size for param in params)
    weights = known_weights(settings.weights)
    return packed_bytes(
        extension, params, {name: held_as(name, one, weights) for name, one in checkpoint.stored().items()}
    )


def _capabilities(checkpoint: Checkpoint, tokenizer: Tokenizer, max_length: int) -> tuple[str, ...]:
    """Those of `Abilities`, as far as files tell them, and what the chat template is for."""
    writes, template = checkpoint.score is None, tokenizer.chat_template
    chats = writes and template is not None
    grammar = tokenizer.answer_grammar
    reads_tools = template is not None and any("tools" in source for source in template.sources.values())
    told = {
        "completion": writes,
        "chat": chats,
        "tools": chats and reads_tools and any(exit.opens for state in grammar.states for exit in state.exits),
        "thinking": chats and grammar.thought is not None,
        "embedding": True,
        "rerank": not writes or _judges(tokenizer, max_length),
    }
    return tuple(name for name, is_so in told.items() if is_so)


def _judges(tokenizer: Tokenizer, max_length: int) -> bool:
    try:
        YesNoJudge(tokenizer, max_length)
    except LandraceError:
        return False
    return True
