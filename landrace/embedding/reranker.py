"""`Reranker`: documents in the order of what they say to a query."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from landrace.embedding.texts import Encoded, check_texts
from landrace.errors import RequestError

Activation = Literal["sigmoid", "identity"]


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


class Scorer(Protocol):
    """A model that judges a document by a query."""

    told: str
    """How, in words."""
    takes_instructions: bool

    def encode(self, query: str, documents: Sequence[str], instruction: str | None, *, truncate: bool) -> list[Encoded]:
        """What the model reads of each document. PromptTooLongError for one that is too long."""
        ...

    def scores(self, encoded: Sequence[Encoded], adapter: str | None) -> list[float]:
        """What it makes of them, before the activation."""
        ...


class Reranker:
    """An opened model that judges documents, and what becomes of its scores.

    A score's bits depend on the query and the document alone on the C++ kernels, not on the other documents.
    """

    def __init__(self, scorer: Scorer, activation: Activation, *, notice: str | None = None) -> None:
        """`notice`: what the user should know about how the model is served."""
        self.notice = notice
        self.scorer = scorer
        self.activation = activation

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
        check_texts([query], "Query")
        check_texts(documents, "Document")
        if instruction is not None and not self.scorer.takes_instructions:
            raise RequestError("This model takes no instruction.", field="instruction", hint="Leave --instruction out.")
        if instruction is not None and not instruction.strip():
            raise RequestError("The instruction is empty.", field="instruction", hint="Leave --instruction out.")
        encoded = self.scorer.encode(query, documents, instruction, truncate=truncate)
        raw = self.scorer.scores(encoded, adapter) if encoded else []
        scores = [sigmoid(score) if self.activation == "sigmoid" else score for score in raw]
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        made = "sigmoid" if self.activation == "sigmoid" else "no activation"
        return Ranking(
            tuple(Ranked(index, scores[index], documents[index]) for index in order),
            tuple(len(one.ids) for one in encoded),
            tuple(one.cut for one in encoded),
            f"{self.scorer.told}; {made}.",
        )


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
