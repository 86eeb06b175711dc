"""Landrace: run, serve, tune, evaluate, compare and certify open-weight language models with one forward pass."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landrace.model import Model, open_model

try:
    __version__ = version("landrace")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+source"

__all__ = ["Model", "__version__", "open_model"]


def __getattr__(name: str) -> Any:
    """Loads the model API on first use, so that `import landrace` stays free of torch."""
    if name in ("Model", "open_model"):
        from landrace import model

        return getattr(model, name)
    raise AttributeError(f"module 'landrace' has no attribute {name!r}")
