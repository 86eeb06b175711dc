"""Opens a model to make vectors or to judge documents: what its checkpoint says, what was asked for, and no guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch

from landrace.checkpoints import Checkpoint
from landrace.checkpoints.bounded import read_json
from landrace.checkpoints.encoder_checkpoint import EncoderCheckpoint, is_encoder
from landrace.checkpoints.store import ModelStore, default_home
from landrace.embedding.dense_files import MAX_BYTES
from landrace.embedding.embedder import Embedder
from landrace.embedding.encoder_engine import EncoderEngine
from landrace.embedding.facts import Modules, PoolingFacts
from landrace.embedding.judges import Activation, HeadJudge, Judge, PairJudge, ScoreForm, YesNoJudge
from landrace.embedding.modules import gguf_modules, read_modules
from landrace.embedding.reranker import Reranker
from landrace.embedding.vector_form import VectorForm
from landrace.encoder_model import open_encoder
from landrace.engine import Engine, EngineOptions
from landrace.engine.readout import POOL_KINDS
from landrace.errors import CheckpointError, OptionError, UnsupportedError
from landrace.model import ServingModel, kernels_notice, known_weights, open_engine
from landrace.text import Tokenizer

_BY_DEFAULT = PoolingFacts(("last",), "the default for decoders")
_ACTIVATIONS: Mapping[str, Activation] = {"Sigmoid": "sigmoid", "Identity": "identity"}


class Opening(TypedDict, total=False):
    """How a model is opened, as `open_engine` has it."""

    adapters: Mapping[str, Path] | None
    weights: str
    kernels: str
    threads: int | None
    options: EngineOptions | None
    home: Path | None


@dataclass(frozen=True)
class ReadingModel:
    """A model that reads, decoder or encoder, and the engine that serves it."""

    path: Path
    """As it was named: the folder with the list of modules, where there is one."""
    checkpoint: Checkpoint | EncoderCheckpoint
    tokenizer: Tokenizer
    engine: Engine | EncoderEngine
    kernels: str
    """The C++ kernels' instruction set, or reference."""
    notice: str | None
    """What the user should know about how it is served."""
    decoder: ServingModel | None
    """The same, of a decoder."""

    def load_adapter(self, name: str, folder: Path) -> None:
        """As `ServingModel.load_adapter`. Raises OptionError for an encoder."""
        if self.decoder is None:
            raise OptionError("An encoder takes no adapter.", hint="Leave it out.")
        self.decoder.load_adapter(name, folder)


def open_reading(name: str, **how: Unpack[Opening]) -> ReadingModel:
    """Opens a model by store name, folder or `.gguf` path. The weights may lie in a folder that a list of modules
    names. Raises what `open_engine` does, and OptionError for options that an encoder does not have."""
    path = located(name, how.get("home"))
    inner = transformer_in(path)
    if is_encoder(inner):
        _check_encoder_options(how.get("adapters"), how.get("options"))
        kernels = how.get("kernels", "auto")
        encoder, tokenizer, checkpoint = open_encoder(
            str(inner), weights=known_weights(how.get("weights", "stored")), kernels=kernels, threads=how.get("threads")
        )
        engine = EncoderEngine(encoder)
        return ReadingModel(path, checkpoint, tokenizer, engine, encoder.kernels, kernels_notice(kernels), None)
    return _reading(open_engine(name if inner == path else str(inner), classifier=True, **how), path)


def open_embedder(name: str, *, pooling: str | None = None, **how: Unpack[Opening]) -> Embedder:
    """Opens a model by store name, folder or `.gguf` path to make vectors: a decoder or an encoder.

    `pooling`: one of `POOL_KINDS`, instead of what the checkpoint says; the rest as in `open_engine`. Raises
    OptionError for a pooling that is not known, or where nobody names one and the model is an encoder, and for options
    that an encoder does not have; UnsupportedError for a module of the checkpoint that is not known here.
    """
    asked = _asked(pooling)
    model = open_reading(name, **how)
    return Embedder(vector_form(model, asked), model.engine, notice=model.notice)


def open_reranker(name: str, **how: Unpack[Opening]) -> Reranker:
    """Opens a model by store name, folder or `.gguf` path to judge documents: a decoder, or a cross-encoder. Options as
    in `open_engine`.

    Raises OptionError for a decoder that cannot be asked as Qwen3-Reranker is, and for options that an encoder does not
    have; UnsupportedError for a classifier with more than one label.
    """
    model = open_reading(name, **how)
    return Reranker(score_form(model), model.engine, notice=model.notice)


def embedder_on(serving: ServingModel) -> Embedder:
    """An embedder on an engine that is open already, and may serve other requests at other times."""
    model = _reading(serving, serving.model.checkpoint.path)
    return Embedder(vector_form(model), serving.engine, notice=serving.notice)


def vector_form(model: ReadingModel, asked: PoolingFacts | None = None) -> VectorForm:
    """How the model's texts become vectors. OptionError where nobody says how an encoder's rows become one vector."""
    checkpoint = model.checkpoint
    modules = _modules_of(model)
    pooling = asked or modules.pooling or (None if model.decoder is None else _BY_DEFAULT)
    if pooling is None:
        raise OptionError(
            f"{model.path} does not say how its rows become one vector.",
            hint="Name the pooling it was trained with: --pooling mean or --pooling cls.",
        )
    return VectorForm(
        model.tokenizer,
        modules,
        pooling,
        width=checkpoint.spec.d_model,
        max_length=model.engine.max_length,
        takes_instructions=model.decoder is not None,
        allowed_dimensions=_allowed_dimensions(checkpoint.config),
    )


def score_form(model: ReadingModel) -> ScoreForm:
    """How the model's scores are made. OptionError and UnsupportedError for one that has none."""
    checkpoint = model.checkpoint
    judge: Judge
    if isinstance(checkpoint, EncoderCheckpoint):
        _check_one_label(checkpoint)
        judge = PairJudge(model.tokenizer, model.engine.max_length)
    elif checkpoint.score is None:
        judge = YesNoJudge(model.tokenizer, model.engine.max_length)
    else:
        head = checkpoint.score.floats()
        if head.shape[0] != 1:
            raise UnsupportedError(
                f"{checkpoint.path} sorts texts into {head.shape[0]} classes; a reranker has one score.",
            )
        judge = HeadJudge(model.tokenizer, model.engine.max_length, head[0].to(torch.float32).numpy())
    return ScoreForm(judge, _activation_of(checkpoint.path, checkpoint.config))


def _reading(serving: ServingModel, path: Path) -> ReadingModel:
    opened = serving.model
    return ReadingModel(
        path, opened.checkpoint, opened.tokenizer, serving.engine, serving.kernels, serving.notice, serving
    )


def _modules_of(model: ReadingModel) -> Modules:
    """What lies beside the weights, or in their metadata."""
    if model.checkpoint.format == "gguf":
        return gguf_modules(model.checkpoint.path, model.checkpoint.metadata)
    return read_modules(model.path)


def _check_one_label(checkpoint: EncoderCheckpoint) -> None:
    """UnsupportedError for an encoder without a classifier, or with one of several classes."""
    classifier = checkpoint.spec.classifier
    if classifier is None:
        raise UnsupportedError(
            f"{checkpoint.path} has no classifier, so it judges no documents.", hint="Use it with `landrace embed`."
        )
    if classifier.n_labels != 1:
        raise UnsupportedError(
            f"{checkpoint.path} sorts texts into {classifier.n_labels} classes; a reranker has one score."
        )


def _activation_of(path: Path, config: Mapping[str, Any]) -> Activation:
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


def located(name: str, home: Path | None) -> Path:
    """The model's file or folder. One with a list of modules may have its weights in a folder of their own."""
    folder = Path(name).expanduser()
    return folder if (folder / "modules.json").is_file() else ModelStore(home or default_home()).resolve(name)


def transformer_in(path: Path) -> Path:
    """Where the weights lie."""
    return read_modules(path).transformer if (path / "modules.json").is_file() else path


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
