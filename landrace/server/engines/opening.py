"""What can be asked of a model that was opened."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from landrace.embedding.opening import ReadingModel, score_form, vector_form
from landrace.errors import LandraceError
from landrace.server.engines.abilities import Abilities

T = TypeVar("T")


def abilities_of(model: ReadingModel) -> Abilities:
    """Raises LandraceError for a model that cannot be asked for anything."""
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
