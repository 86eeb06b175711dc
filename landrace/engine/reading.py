"""`Reader`: takes what a request wants out of each step's rows, as they come.

Rows are added one after another in float64, so a vector's bits do not depend on how the prompt was cut into chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from landrace.engine.batch_builder import WantedRows
from landrace.engine.progress import Progress
from landrace.engine.readout import Pooling, PoolKind, Readout, TokenLogits
from landrace.errors import RequestError
from landrace.models.spec import ModelSpec

Rows = NDArray[np.float32]
Sums = NDArray[np.float64]


class Pool:
    """The pooled vector of rows that come in order, in any number of pieces."""

    def __init__(self, kinds: Sequence[PoolKind]) -> None:
        self._kinds = kinds
        self._n = 0
        self._weight = 0.0
        self._parts: dict[PoolKind, Sums] = {}
        """Of each kind what the rows so far come to, undivided."""

    def add(self, rows: Rows, at: int) -> None:
        """Rows float32 [n, d], n at least 1, the first of which stands at position `at` of its text."""
        exact = rows.astype(np.float64)
        weights = np.arange(at + 1, at + 1 + len(rows), dtype=np.float64)
        for kind in self._kinds:
            before = self._parts.get(kind)
            match kind:
                case "cls":
                    now = exact[0] if before is None else before
                case "last":
                    now = exact[-1]
                case "max":
                    now = exact.max(0) if before is None else np.maximum(before, exact.max(0))
                case "weighted_mean":
                    now = _sum(before, exact * weights[:, None])
                case "mean" | "mean_sqrt_len":
                    now = _sum(before, exact)
            self._parts[kind] = now
        self._n += len(rows)
        self._weight += float(weights.sum())  # whole numbers: exact

    def vector(self) -> Rows:
        """Float32 [len(kinds) * d]."""
        by: Mapping[str, float] = {
            "mean": self._n,
            "mean_sqrt_len": self._n**0.5,
            "weighted_mean": self._weight,
        }
        found = np.concatenate([self._parts[kind] / by.get(kind, 1.0) for kind in self._kinds])
        return cast(Rows, found.astype(np.float32))


def _sum(before: Sums | None, rows: Sums) -> Sums:
    """The sum of all rows, one after another."""
    first = rows if before is None else np.concatenate([before[None], rows])
    return cast(Sums, np.add.reduce(first, axis=0))


class Reader:
    """What one request has read so far."""

    def __init__(self, readout: Readout) -> None:
        self._readout = readout
        self._pool: Pool | None = None
        self.found: Rows | None = None
        """Once the prompt is computed: the vector, or the logits."""

    @staticmethod
    def of(readout: Readout | None, spec: ModelSpec) -> Reader | None:
        """None for a request that is continued. RequestError for what the model, as it was opened, cannot give."""
        if isinstance(readout, Pooling) and spec.mtp is not None and spec.streams is not None:
            raise RequestError(
                "A model whose layers keep several streams gives no vectors while its own layer writes drafts.",
                hint="Open it without --draft mtp.",
            )
        return None if readout is None else Reader(readout)

    def read(self, wanted: WantedRows, progress: Progress, logits: Tensor, hidden: Tensor | None) -> None:
        """A step's rows, before `progress` books them. `hidden`: what the head read of all of the step's rows.
        RequestError where they are not finite."""
        computed = range(progress.cached, progress.cached + progress.scheduled)
        ends = computed.stop == progress.held
        match self._readout:
            case Pooling(kinds, first):
                assert hidden is not None
                if self._pool is None or computed.start <= first:
                    self._pool = Pool(kinds)  # a request that lost what it held is computed again
                start = max(first, computed.start)
                if start < computed.stop:
                    offset = wanted.packed.start + start - computed.start
                    rows = hidden[offset : wanted.packed.stop].float().cpu().numpy()
                    if not np.isfinite(rows).all():
                        raise RequestError("The model's hidden rows are not finite numbers for this request.")
                    self._pool.add(rows, start)
                if ends:
                    self.found = self._pool.vector()
            case TokenLogits(token_ids) if ends:
                self.found = logits[wanted.rows.start, list(token_ids)].float().cpu().numpy()
