"""`VectorSource`: what makes pooled vectors of token ids, whichever kind of model it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from landrace.engine import Engine
from landrace.engine.readout import PoolKind

Rows = NDArray[np.float32]


class VectorSource(Protocol):
    """A model that is ready."""

    @property
    def width(self) -> int:
        """Numbers in a hidden row."""
        ...

    @property
    def max_length(self) -> int:
        """Tokens of the longest text."""
        ...

    def pooled(
        self, sequences: Sequence[Sequence[int]], kinds: Sequence[PoolKind], skipped: int, adapter: str | None
    ) -> list[Rows]:
        """Each sequence's hidden rows after the last norm as one vector; the first `skipped` do not count."""
        ...


class DecoderVectors:
    """The engine's, which may serve other requests at other times. See `VectorSource`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def width(self) -> int:
        return self.engine.decoder.spec.d_model

    @property
    def max_length(self) -> int:
        return self.engine.max_length

    def pooled(
        self, sequences: Sequence[Sequence[int]], kinds: Sequence[PoolKind], skipped: int, adapter: str | None
    ) -> list[Rows]:
        found = []
        for completion in self.engine.embed(sequences, kinds, skipped=skipped, adapter=adapter):
            if completion.error is not None:
                raise completion.error
            assert completion.read is not None
            found.append(completion.read)
        return found
