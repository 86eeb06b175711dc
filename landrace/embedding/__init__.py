"""Texts to vectors, and documents to scores for a query, by whatever model is opened.

The names below are imported when they are first asked for, so that a command's help does not wait for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landrace.embedding.embedder import Embedder, Embeddings
    from landrace.embedding.opening import open_embedder, open_reranker
    from landrace.embedding.reranker import Ranked, Ranking, Reranker

__all__ = ["Embedder", "Embeddings", "Ranked", "Ranking", "Reranker", "open_embedder", "open_reranker"]

_HOMES = {
    "Embedder": "embedder",
    "Embeddings": "embedder",
    "Ranked": "reranker",
    "Ranking": "reranker",
    "Reranker": "reranker",
    "open_embedder": "opening",
    "open_reranker": "opening",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
