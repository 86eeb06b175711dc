"""Opens what an engine process serves, decoder or encoder, and tells what can be asked of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from landrace.embedding.opening import ReadingModel, open_reading, score_form, vector_form
from landrace.errors import LandraceError
from landrace.server.engines.abilities import Abilities
from landrace.server.engines.fingerprint import encoder_fingerprint, fingerprint
from landrace.server.engines.worker import EngineSettings, Ready

T = TypeVar("T")


def open_served(settings: EngineSettings) -> tuple[ReadingModel, Ready]:
    """The model and what is told of it. Raises LandraceError for one that cannot be opened, or not be asked for
    anything."""
    model = open_reading(
        settings.model,
        adapters=settings.adapters,
        weights=settings.weights,
        kernels=settings.kernels,
        threads=settings.threads,
        options=settings.options,
    )
    model.tokenizer.warm_up()  # it travels with what it knows
    return model, Ready(
        model.engine.max_length,
        model.decoder is not None and settings.options.shifts,
        model.tokenizer,
        _fingerprints(model, settings),
        model.notice,
        abilities_of(model),
    )


def abilities_of(model: ReadingModel) -> Abilities:
    """What can be asked of it. Raises LandraceError where that is nothing."""
    vectors, scores = _or_why_not(vector_form, model), _or_why_not(score_form, model)
    writes = model.decoder is not None and model.decoder.model.checkpoint.score is None
    if isinstance(vectors, LandraceError) and isinstance(scores, LandraceError) and not writes:
        raise vectors
    return Abilities(writes, vectors, scores)


def _or_why_not(form: Callable[[ReadingModel], T], model: ReadingModel) -> T | LandraceError:
    try:
        return form(model)
    except LandraceError as error:
        return error


def _fingerprints(model: ReadingModel, settings: EngineSettings) -> dict[str | None, str]:
    if model.decoder is None:
        return {None: encoder_fingerprint(model, settings.weights)}
    folders = ((None, None), *settings.adapters.items())
    return {name: fingerprint(model.decoder, settings.weights, settings.options, folder) for name, folder in folders}
