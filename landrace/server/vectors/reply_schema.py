"""The replies of vectors and scores, written down for the document. `replies.py` writes them."""

from __future__ import annotations

from typing import Literal

from landrace.server.openapi.description import Told


class ReadUsage(Told):
    """Tokens that were read, and how many texts were cut."""

    prompt_tokens: int
    total_tokens: int
    truncated: int = 0


class Embedding(Told):
    """A vector: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingReply(Told):
    """In the order of the texts."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: ReadUsage


class RankedText(Told):
    """A document as it was given."""

    text: str


class RankedDocument(Told):
    """One of the documents."""

    index: int
    relevance_score: float
    document: RankedText | None = None


class RerankReply(Told):
    """The best first."""

    id: str
    model: str
    results: list[RankedDocument]
    usage: ReadUsage


class ScoredPair(Told):
    """A query with a document."""

    object: Literal["score"]
    index: int
    score: float


class ScoreReply(Told):
    """In the order of the pairs."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ScoredPair]
    usage: ReadUsage
