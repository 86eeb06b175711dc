"""`Abilities`: what can be asked of a model that is open. No torch: it travels to the HTTP side."""

from __future__ import annotations

from dataclasses import dataclass

from landrace.embedding.judges import ScoreForm
from landrace.embedding.vector_form import VectorForm
from landrace.errors import LandraceError, RequestError


@dataclass(frozen=True)
class Abilities:
    """An error says why a model lacks one."""

    writes: bool
    """Whether it continues prompts."""
    vectors: VectorForm | LandraceError
    scores: ScoreForm | LandraceError

    def names(self, *, chats: bool) -> list[str]:
        """In the words of the API. `chats`: whether there is a chat template."""
        told = {
            "completion": self.writes,
            "chat": self.writes and chats,
            "embedding": isinstance(self.vectors, VectorForm),
            "rerank": isinstance(self.scores, ScoreForm),
        }
        return [name for name, is_so in told.items() if is_so]

    def check_writes(self, model: str) -> None:
        """Raises RequestError for a model that only reads."""
        if not self.writes:
            told = ", ".join(self.names(chats=False))
            raise RequestError(f"The model {model!r} writes no text; it is for: {told}.", field="model")

    def vector_form(self, model: str) -> VectorForm:
        """How its vectors are made. Raises RequestError for a model that gives none."""
        if isinstance(self.vectors, LandraceError):
            raise RequestError(f"The model {model!r} gives no vectors: {self.vectors.message}", field="model")
        return self.vectors

    def score_form(self, model: str) -> ScoreForm:
        """How its scores are made. Raises RequestError for a model that judges no documents."""
        if isinstance(self.scores, LandraceError):
            raise RequestError(f"The model {model!r} judges no documents: {self.scores.message}", field="model")
        return self.scores
