"""Tells errors of a step that fewer requests would not have."""

from __future__ import annotations

import torch


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: the interpreter's, an accelerator's, or PyTorch's on the processor, which has no class of
    its own for it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
