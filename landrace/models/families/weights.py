"""`Source`: which rows of which checkpoint tensor make one canonical parameter.

Only rows (dimension 0) are ever selected or reordered, so one `Source` serves a weight [out, in], its
bias [out] and the `lora_B` [out, r] of an adapter on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from landrace.errors import CheckpointError


@dataclass(frozen=True)
class Rotary:
    """The rows are `n_heads` heads of `head_dim`, whose first `rotary_dim` rows are stored as interleaved pairs.

    Pair i of a head lies in its rows 2i and 2i + 1; in the half layout it lies in rows i and rotary_dim / 2 + i.
    """

    n_heads: int
    head_dim: int
    rotary_dim: int

    def __post_init__(self) -> None:
        if self.n_heads < 1 or self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise CheckpointError(f"The rotary layout is impossible: {self}.")

    def to_half(self, tensor: Tensor) -> Tensor:
        """Interleaved rows to half rows: evens first, then odds; rows of a head past `rotary_dim` stay."""
        heads, rest = self._heads(tensor)
        turned, kept = heads[:, : self.rotary_dim], heads[:, self.rotary_dim :]
        return torch.cat((turned[:, 0::2], turned[:, 1::2], kept), dim=1).reshape(-1, *rest)

    def to_interleaved(self, tensor: Tensor) -> Tensor:
        """The inverse of `to_half`."""
        heads, rest = self._heads(tensor)
        turned, kept = heads[:, : self.rotary_dim], heads[:, self.rotary_dim :]
        first, second = turned.chunk(2, dim=1)
        pairs = torch.stack((first, second), dim=2).reshape(self.n_heads, self.rotary_dim, *rest)
        return torch.cat((pairs, kept), dim=1).reshape(-1, *rest)

    def check_rows(self, rows: int) -> None:
        """CheckpointError unless `rows` are the heads' rows."""
        if rows != self.n_heads * self.head_dim:
            raise CheckpointError(f"A rotary tensor has {rows} rows, but {self.n_heads} heads of {self.head_dim}.")

    def _heads(self, tensor: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        self.check_rows(tensor.shape[0])
        rest = tuple(tensor.shape[1:])
        return tensor.reshape(self.n_heads, self.head_dim, *rest), rest


@dataclass(frozen=True)
class Source:
    """Rows `rows` (all when None) of the checkpoint's `tensor`, turned to the half layout where `rotary` is set."""

    tensor: str
    rows: tuple[int, int] | None = None
    rotary: Rotary | None = None

    def take(self, tensor: Tensor) -> Tensor:
        """The canonical rows out of the checkpoint's tensor. The result may share memory with `tensor`."""
        return self.turn(self._part(tensor))

    def turn(self, part: Tensor) -> Tensor:
        """The canonical rows out of `rows` alone, for who read no more of the file. May share memory with `part`."""
        return part if self.rotary is None else self.rotary.to_half(part)

    def put(self, dest: Tensor, tensor: Tensor) -> None:
        """Write canonical rows into the checkpoint's tensor `dest`, in place: the inverse of `take`."""
        part = self._part(dest)
        if part.shape != tensor.shape:
            raise CheckpointError(
                f"'{self.tensor}' takes rows of shape {list(part.shape)}, but got {list(tensor.shape)}."
            )
        part.copy_(tensor if self.rotary is None else self.rotary.to_interleaved(tensor))

    def check_rows(self, stored_rows: int) -> None:
        """CheckpointError unless these rows can be taken of a tensor with `stored_rows`."""
        start, end = self.rows or (0, stored_rows)
        if not 0 <= start < end <= stored_rows:
            raise CheckpointError(f"'{self.tensor}' has {stored_rows} rows, but rows {start} to {end} are needed.")
        if self.rotary is not None:
            self.rotary.check_rows(end - start)

    def _part(self, tensor: Tensor) -> Tensor:
        self.check_rows(tensor.shape[0])
        return tensor if self.rows is None else tensor[self.rows[0] : self.rows[1]]
