"""Landrace: run, serve, tune, evaluate, compare and certify open-weight language models with one forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landrace.embedding import open_embedder, open_reranker
    from landrace.model import Model, open_model

    __version__: str

__all__ = ["Model", "__version__", "open_embedder", "open_model", "open_reranker"]


def __getattr__(name: str) -> Any:
    """Loads the model API and the version on first use, so that `import landrace` is quick and free of torch."""
    if name in ("Model", "open_model"):
        from landrace import model

        return getattr(model, name)
    if name in ("open_embedder", "open_reranker"):
        from landrace import embedding

        return getattr(embedding, name)
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("landrace")
        except PackageNotFoundError:  # a source tree that was never installed
            return "0+source"
    raise AttributeError(f"module 'landrace' has no attribute {name!r}")
