"""`Dense`: a linear layer behind the pooling. No torch: it is applied wherever a pooled vector arrives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Dense:
    """activation(W x + b). Computed vector by vector and number by number, so that none depends on the others."""

    weight: NDArray[np.float64]
    """[out, in]."""
    bias: NDArray[np.float64] | None
    activation: str
    """One of `ACTIVATIONS`."""

    def __call__(self, vector: Rows) -> Rows:
        """Float32 [in] to [out], rounded once."""
        # No library product: how that adds up may depend on the number of threads.
        found = np.einsum("oi,i->o", self.weight, vector.astype(np.float64), optimize=False)
        found = found if self.bias is None else found + self.bias
        apply = ACTIVATIONS[self.activation]
        return cast(Rows, np.array([apply(value) for value in found.tolist()], np.float64).astype(np.float32))


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


ACTIVATIONS: Mapping[str, Callable[[float], float]] = {
    "Identity": lambda x: x,
    "Tanh": math.tanh,
    "ReLU": lambda x: max(x, 0.0),
    "GELU": lambda x: 0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0))),
    "Sigmoid": sigmoid,
    "SiLU": lambda x: x * sigmoid(x),
}
"""By PyTorch's names."""
