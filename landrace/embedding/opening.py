"""Opens a model to make vectors or to judge documents: what its checkpoint says, what was asked for, and no guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from landrace.checkpoints import Checkpoint
from landrace.checkpoints.bounded import read_json
from landrace.checkpoints.encoder_checkpoint import EncoderCheckpoint, is_encoder
from landrace.checkpoints.store import ModelStore, default_home
from landrace.embedding.embedder import Embedder
from landrace.embedding.encoders import EncoderVectors, PairJudge
from landrace.embedding.judges import HeadJudge, YesNoJudge
from landrace.embedding.modules import MAX_BYTES, Modules, PoolingFacts, gguf_modules, read_modules
from landrace.embedding.reranker import Activation, Reranker
from landrace.embedding.sources import DecoderVectors
from landrace.encoder_model import open_encoder
from landrace.engine import EngineOptions
from landrace.engine.readout import POOL_KINDS
from landrace.errors import CheckpointError, OptionError, UnsupportedError
from landrace.model import ServingModel, kernels_notice, known_weights, open_engine

_BY_DEFAULT = PoolingFacts(("last",), "the default for decoders")
_ACTIVATIONS: Mapping[str, Activation] = {"Sigmoid": "sigmoid", "Identity": "identity"}


def open_embedder(
    name: str,
    *,
    pooling: str | None = None,
    adapters: Mapping[str, Path] | None = None,
    weights: str = "stored",
    kernels: str = "auto",
    threads: int | None = None,
    options: EngineOptions | None = None,
    home: Path | None = None,
) -> Embedder:
    """Opens a model by store name, folder or `.gguf` path to make vectors: a decoder or an encoder.

    `pooling`: one of `POOL_KINDS`, instead of what the checkpoint says; the rest as in `open_engine`. Raises
    OptionError for a pooling that is not known, or where nobody names one and the model is an encoder, and for options
    that an encoder does not have; UnsupportedError for a module of the checkpoint that is not known here.
    """
    asked = _asked(pooling)
    path = _located(name, home)
    modules = read_modules(path) if path.is_dir() else None
    if is_encoder(path if modules is None else modules.transformer):
        _check_encoder_options(adapters, options)
        return _encoder_embedder(path, modules, asked, weights, kernels, threads)
    inner = name if modules is None or modules.transformer == path else str(modules.transformer)
    serving = open_engine(
        inner,
        adapters=adapters,
        weights=weights,
        kernels=kernels,
        threads=threads,
        options=options,
        home=home,
        classifier=True,
    )
    return embedder_on(serving, modules, asked)


def embedder_on(serving: ServingModel, modules: Modules | None = None, pooling: PoolingFacts | None = None) -> Embedder:
    """An embedder on an engine that is open already, and may serve other requests at other times."""
    checkpoint, tokenizer = serving.model.checkpoint, serving.model.tokenizer
    modules = modules or modules_of(checkpoint)
    return Embedder(
        tokenizer,
        DecoderVectors(serving.engine),
        modules,
        pooling or modules.pooling or _BY_DEFAULT,
        takes_instructions=True,
        allowed_dimensions=_allowed_dimensions(checkpoint.config),
        notice=serving.notice,
    )


def _encoder_embedder(
    path: Path, modules: Modules | None, asked: PoolingFacts | None, weights: str, kernels: str, threads: int | None
) -> Embedder:
    where = str(path if modules is None else modules.transformer)
    encoder, tokenizer, checkpoint = open_encoder(
        where, weights=known_weights(weights), kernels=kernels, threads=threads
    )
    modules = modules or modules_of(checkpoint)
    pooling = asked or modules.pooling
    if pooling is None:
        raise OptionError(
            f"{path} does not say how its rows become one vector.",
            hint="Name the pooling it was trained with: --pooling mean or --pooling cls.",
        )
    return Embedder(
        tokenizer,
        EncoderVectors(encoder),
        modules,
        pooling,
        takes_instructions=False,
        allowed_dimensions=_allowed_dimensions(checkpoint.config),
        notice=kernels_notice(kernels),
    )


def modules_of(checkpoint: Checkpoint | EncoderCheckpoint) -> Modules:
    """What lies beside the weights, or in their metadata."""
    if checkpoint.format == "gguf":
        return gguf_modules(checkpoint.path, checkpoint.metadata)
    return read_modules(checkpoint.path)


def open_reranker(
    name: str,
    *,
    adapters: Mapping[str, Path] | None = None,
    weights: str = "stored",
    kernels: str = "auto",
    threads: int | None = None,
    options: EngineOptions | None = None,
    home: Path | None = None,
) -> Reranker:
    """Opens a model by store name, folder or `.gguf` path to judge documents: a decoder, or a cross-encoder. Options as
    in `open_engine`.

    Raises OptionError for a decoder that cannot be asked as Qwen3-Reranker is, and for options that an encoder does not
    have; UnsupportedError for a classifier with more than one label.
    """
    path = ModelStore(home or default_home()).resolve(name)
    if is_encoder(path):
        _check_encoder_options(adapters, options)
        encoder, tokenizer, checkpoint = open_encoder(
            str(path), weights=known_weights(weights), kernels=kernels, threads=threads
        )
        judge = PairJudge(encoder, tokenizer, str(path))
        return Reranker(judge, activation_of(path, checkpoint.config), notice=kernels_notice(kernels))
    serving = open_engine(
        name,
        adapters=adapters,
        weights=weights,
        kernels=kernels,
        threads=threads,
        options=options,
        home=home,
        classifier=True,
    )
    return reranker_on(serving)


def reranker_on(serving: ServingModel) -> Reranker:
    """A reranker on an engine that is open already, and may serve other requests at other times."""
    checkpoint, tokenizer = serving.model.checkpoint, serving.model.tokenizer
    activation = activation_of(checkpoint.path, checkpoint.config)
    if checkpoint.score is None:
        return Reranker(YesNoJudge(serving.engine, tokenizer), activation, notice=serving.notice)
    head = checkpoint.score.floats()
    if head.shape[0] != 1:
        raise UnsupportedError(
            f"{checkpoint.path} sorts texts into {head.shape[0]} classes; a reranker has one score.",
        )
    weight = head[0].to(torch.float32).numpy()
    return Reranker(HeadJudge(serving.engine, tokenizer, weight), activation, notice=serving.notice)


def activation_of(path: Path, config: Mapping[str, Any]) -> Activation:
    """What sentence-transformers makes of a score: what its own file or config.json says, else a sigmoid."""
    file = path / "config_sentence_transformers.json"
    own = read_json(file, MAX_BYTES) if file.is_file() else {}
    older = config.get("sentence_transformers")
    stated = own.get("activation_fn") or (older.get("activation_fn") if isinstance(older, Mapping) else None)
    stated = stated or config.get("sbert_ce_default_activation_function")
    if stated is None:
        return "sigmoid"
    found = _ACTIVATIONS.get(str(stated).rpartition(".")[2])
    if found is None:
        raise UnsupportedError(f"The checkpoint makes scores by {str(stated)!r}, which is not implemented.")
    return found


def _check_encoder_options(adapters: Mapping[str, Path] | None, options: EngineOptions | None) -> None:
    """OptionError for what only decoders have."""
    if adapters:
        raise OptionError("An encoder takes no adapter.", hint="Leave --adapter out.")
    if options is not None and options.max_length is not None:
        raise OptionError("An encoder reads as much as it was trained to.", hint="Leave --max-length out.")


def _located(name: str, home: Path | None) -> Path:
    """The model's file or folder. One with a list of modules may have its weights in a folder of their own."""
    folder = Path(name).expanduser()
    return folder if (folder / "modules.json").is_file() else ModelStore(home or default_home()).resolve(name)


def _asked(pooling: str | None) -> PoolingFacts | None:
    if pooling is None:
        return None
    kind = next((kind for kind in POOL_KINDS if kind == pooling), None)
    if kind is None:
        raise OptionError(f"There is no pooling {pooling!r}.", hint=f"Choose {', '.join(POOL_KINDS)}.")
    return PoolingFacts((kind,), "as asked for")


def _allowed_dimensions(config: Mapping[str, Any]) -> Sequence[int] | None:
    """What config.json says vectors may be cut to."""
    listed = config.get("matryoshka_dimensions")
    if listed is None:
        return None
    if not isinstance(listed, list) or not all(isinstance(one, int) and one > 0 for one in listed):
        raise CheckpointError("config.json has matryoshka_dimensions that are not a list of numbers.")
    return listed
