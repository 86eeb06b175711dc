"""`Part`: one matrix of a product and what becomes of it; and which parts are one operation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from landrace.kernels.activation import SWIGLU, Activation
from landrace.kernels.cpu.weights import PackedMatrix, PackedVector


class Epilogue(StrEnum):
    """What becomes of a product y."""

    STORE = "store"
    """out = factor * y."""
    ADD = "add"
    """out = out + factor * y."""
    GATE = "gate"
    """out = activation(y, the gated matrix's y)."""


@dataclass(frozen=True)
class Part:
    """One matrix of a product and what becomes of it."""

    matrix: PackedMatrix
    out: int
    """A buffer, or `Program.logits`."""
    bias: PackedVector | None = None
    epilogue: Epilogue = Epilogue.STORE
    factor: float = 1.0
    row_gate: int | None = None
    """A buffer of width 1: y is multiplied by the sigmoid of the row's number there."""
    gated: PackedMatrix | None = None
    gated_bias: PackedVector | None = None
    activation: Activation = SWIGLU


def by_order(parts: Sequence[Part]) -> Iterable[tuple[PackedVector | None, Sequence[Part]]]:
    """The parts by the order of their matrices' inputs, since rows are prepared in one order at a time.

    ValueError where there is none, or a matrix gates another whose order is another.
    """
    if not parts:
        raise ValueError("A product needs a matrix.")
    found: dict[PackedVector | None, list[Part]] = {}
    for part in parts:
        if part.gated is not None and part.gated.order != part.matrix.order:
            raise ValueError("A matrix cannot gate another whose inputs are in another order.")
        found.setdefault(part.matrix.order, []).append(part)
    return found.items()
