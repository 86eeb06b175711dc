"""Model files and adapters: read strictly, written whole, kept in a store.

The names below are imported when they are first asked for, so that the store's commands do not wait for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landrace.checkpoints.adapter import read_adapter, write_adapter
    from landrace.checkpoints.checkpoint import Checkpoint, open_checkpoint
    from landrace.checkpoints.write import write_checkpoint

__all__ = ["Checkpoint", "open_checkpoint", "read_adapter", "write_adapter", "write_checkpoint"]

_HOMES = {
    "Checkpoint": "checkpoint",
    "open_checkpoint": "checkpoint",
    "read_adapter": "adapter",
    "write_adapter": "adapter",
    "write_checkpoint": "write",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
