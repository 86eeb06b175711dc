"""Turns the requests of one step into a `ForwardBatch`, and says which logits belong to whom."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from landrace.engine.cache import KVCache
from landrace.engine.request import Request
from landrace.models.batch import AdapterRows, CacheView, ForwardBatch


@dataclass(frozen=True)
class WantedRows:
    """One request's logit rows in a step: those that score prompt tokens, then at most one to sample from."""

    rows: range
    """Rows of the logits."""
    scored: range
    """Indices of the prompt tokens the first of them predict."""
    samples: bool
    """Whether the last of them predicts a new token."""

    @property
    def alone(self) -> WantedRows:
        """The same among this request's own rows only."""
        return replace(self, rows=range(len(self.rows)))


def build_batch(
    requests: Sequence[Request], cache: KVCache, adapter_slots: Mapping[str, int]
) -> tuple[ForwardBatch, list[WantedRows]]:
    """Lays each request's tokens [cached, cached + scheduled) end to end.

    Logits are asked for only where a token is sampled or a prompt logprob wanted.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    starts = [0]
    logit_rows: list[int] = []
    wanted: list[WantedRows] = []
    write_slots: list[int] = []
    sequence_slots = []
    rows_of_slot: dict[int, list[int]] = {}
    for request in requests:
        first, end = request.cached, request.cached + request.scheduled
        row = starts[-1] - first  # packed row of position 0, if it were here
        token_ids += request.tokens[first:end]
        positions += range(first, end)
        starts.append(row + end)
        write_slots += cache.write_slots(request, first, end)
        sequence_slots.append(cache.slots(request)[:end])
        if request.adapter is not None:
            rows_of_slot.setdefault(adapter_slots[request.adapter], []).extend(range(starts[-2], starts[-1]))
        scored, samples = _predictions(request)
        wanted.append(WantedRows(range(len(logit_rows), len(logit_rows) + len(scored) + samples), scored, samples))
        logit_rows += [row + token - 1 for token in scored]
        if samples:
            logit_rows.append(row + end - 1)
    device = cache.device
    adapters = tuple(
        AdapterRows(slot, None if len(rows) == len(token_ids) else torch.tensor(rows, device=device))
        for slot, rows in rows_of_slot.items()
    )
    # One tensor and its parts: making four takes longer.
    numbers = array("q", token_ids + positions + write_slots + logit_rows)
    packed = torch.frombuffer(numbers, dtype=torch.int64)
    if not cache.in_main_memory:
        packed = packed.to(device)
    n_rows = len(token_ids)
    batch = ForwardBatch(
        token_ids=packed[:n_rows],
        positions=packed[n_rows : 2 * n_rows],
        starts=tuple(starts),
        logit_rows=packed[3 * n_rows :],
        cache=CacheView(cache.layers, packed[2 * n_rows : 3 * n_rows], tuple(sequence_slots)),
        adapters=adapters,
    )
    return batch, wanted


def _predictions(request: Request) -> tuple[range, bool]:
    """The prompt tokens this step scores, and whether it samples. The row of position p predicts token p + 1."""
    end = request.cached + request.scheduled
    scored = range(max(request.scored, request.cached + 1), min(len(request.prompt_ids), end + 1))
    return scored, end == request.held and request.params.max_tokens > 0
