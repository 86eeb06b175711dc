"""`Reranker`: documents in the order of what they say to a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from landrace.embedding.judges import ScoreForm
from landrace.embedding.reading import ReadingEngine, read


@dataclass(frozen=True)
class Ranked:
    """One document's place."""

    index: int
    """Among the documents as they were given."""
    score: float
    document: str


@dataclass(frozen=True)
class Ranking:
    """All documents, the best first; equal ones as they were given."""

    results: tuple[Ranked, ...]
    tokens: tuple[int, ...]
    """Of each query with its document, in the order in which the documents were given."""
    cut_tokens: tuple[int, ...]
    """Of each, what was left out because it is too long."""
    told: str
    """How scores are made, in a sentence."""

    @property
    def truncated(self) -> int:
        """How many documents were cut."""
        return sum(cut > 0 for cut in self.cut_tokens)


def by_score(scores: Sequence[float]) -> list[int]:
    """Places of the scores, the best first; equal ones as they were given."""
    return sorted(range(len(scores)), key=lambda index: -scores[index])


class Reranker:
    """An opened model that judges documents, and what becomes of its scores.

    A score's bits depend on the query and the document alone on the C++ kernels, not on the other documents.
    """

    def __init__(self, form: ScoreForm, engine: ReadingEngine, *, notice: str | None = None) -> None:
        """`engine` may serve other requests at other times. `notice`: what the user should know about how the model is
        served."""
        self.form = form
        self.engine = engine
        self.notice = notice

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        instruction: str | None = None,
        truncate: bool = False,
        adapter: str | None = None,
    ) -> Ranking:
        """The documents by score. `instruction`: what makes a document a good one, for models that take one.

        Raises RequestError for texts that are empty or, unless `truncate` cuts the documents, too long.
        """
        form = self.form
        encoded = form.encode(query, documents, instruction=instruction, truncate=truncate)
        found = read(self.engine, [(one.ids, form.readout(one)) for one in encoded], adapter)
        scores = [form.score(one) for one in found]
        return Ranking(
            tuple(Ranked(index, scores[index], documents[index]) for index in by_score(scores)),
            tuple(len(one.ids) for one in encoded),
            tuple(one.cut for one in encoded),
            form.told,
        )
