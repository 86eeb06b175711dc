"""Token choice in C++: see `SamplingRule` for what is kept of a row and how a token is chosen from it."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from landrace.kernels.sampling_rule import SamplingRule


def choose_tokens(
    native: ModuleType,
    pool: Any,
    isa: str,
    logits: Tensor,
    rows: Sequence[int],
    rules: Sequence[SamplingRule],
    uniforms: Sequence[float],
    threads: int,
    masks: Sequence[Tensor | None] = (),
) -> list[int]:
    """What the reference `choose_tokens` chooses, except that e^x is rounded otherwise: the shares' borders may lie up
    to 1e-6 apart. A row's token does not depend on the other rows, on `threads` or on the instruction set.

    ValueError for logits that are not float32 in main memory with adjacent columns, and for masks that are not int32
    there; IndexError for a row that does not exist.
    """
    if logits.dtype != torch.float32 or logits.dim() != 2 or not logits.is_cpu:
        raise ValueError(f"Logits are a float32 matrix in main memory, not {logits.dtype} {list(logits.shape)}.")
    (n_rows, vocab), (stride, step) = logits.shape, logits.stride()
    if vocab == 0 or step != 1:
        raise ValueError("Logits need columns, and adjacent ones.")
    if not len(rows) == len(rules) == len(uniforms):
        raise ValueError(f"{len(rows)} rows, {len(rules)} rules and {len(uniforms)} uniform numbers do not match.")
    if rows and not 0 <= min(rows) <= max(rows) < n_rows:
        raise IndexError(f"There are {n_rows} rows of logits; {min(rows)} to {max(rows)} were asked for.")
    words = [(0, 0) if mask is None else _words(mask) for mask in masks] or [(0, 0)] * len(rows)
    if len(words) != len(rows):
        raise ValueError(f"{len(rows)} rows and {len(words)} masks do not match.")
    tokens: list[int] = native.choose_tokens(
        pool, threads, isa, logits.data_ptr(), stride, vocab, rows, rules, uniforms, words
    )
    return tokens


def _words(mask: Tensor) -> tuple[int, int]:
    """Where a mask's words lie, and how many they are."""
    if mask.dtype != torch.int32 or not mask.is_cpu or not mask.is_contiguous():
        raise ValueError(f"A mask is int32 in main memory, not {mask.dtype} on {mask.device.type}.")
    return mask.data_ptr(), mask.numel()
