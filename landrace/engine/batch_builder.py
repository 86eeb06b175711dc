"""Turns the requests of one step into a `ForwardBatch`, and says which logits belong to whom."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch

from landrace.engine.cache.memory import CacheMemory
from landrace.engine.progress import Progress
from landrace.engine.readout import TokenLogits
from landrace.models.batch import AdapterRows, ForwardBatch


@dataclass(frozen=True)
class WantedRows:
    """One request's logit rows in a step: those that score prompt tokens or are only read, then those to sample
    from."""

    rows: range
    """Rows of the logits."""
    scored: range
    """Indices of the prompt tokens the first of them predict."""
    n_sampled: int
    """How many of the last of them predict new tokens, one after another."""
    packed: range = range(0)
    """All rows of the request in the step."""

    @property
    def alone(self) -> WantedRows:
        """The same among this request's own rows only."""
        return replace(self, rows=range(len(self.rows)))


def build_batch(
    work: Sequence[Progress], memory: CacheMemory, adapter_slots: Mapping[str, int]
) -> tuple[ForwardBatch, list[WantedRows]]:
    """Lays each request's tokens [cached, cached + scheduled), and its draft behind them, end to end.

    Its draft and the last `guessed` of its tokens are guesses.

    Logits are asked for only where a token is sampled or a prompt logprob wanted.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    starts = [0]
    logit_rows: list[int] = []
    wanted: list[WantedRows] = []
    places_of: list[list[int]] = [[] for _ in work[0].tables]
    ends: list[int] = []
    rows_of_slot: dict[int, list[int]] = {}
    for progress in work:
        first, held = progress.cached, progress.cached + progress.scheduled
        end = held + len(progress.draft)
        row = starts[-1] - first  # packed row of position 0, if it were here
        token_ids += progress.tokens[first:held]
        token_ids += progress.draft
        positions += range(first, end)
        starts.append(row + end)
        ends.append(end)
        for group, (own, table) in enumerate(zip(places_of, progress.tables, strict=True)):
            own += memory.places(table, first, progress.held - progress.guessed, end, group)
        if (adapter := progress.request.adapter) is not None:
            rows_of_slot.setdefault(adapter_slots[adapter], []).extend(range(starts[-2], starts[-1]))
        scored, n_sampled = _predictions(progress)
        n_last = n_sampled + _is_read(progress)
        n_wanted = len(scored) + n_last
        rows = range(len(logit_rows), len(logit_rows) + n_wanted)
        wanted.append(WantedRows(rows, scored, n_sampled, range(starts[-2], starts[-1])))
        logit_rows += [row + token - 1 for token in scored]
        logit_rows += range(row + end - n_last, row + end)
    device = memory.device
    adapters = tuple(
        AdapterRows(slot, None if len(rows) == len(token_ids) else torch.tensor(rows, device=device))
        for slot, rows in rows_of_slot.items()
    )
    # One tensor and its parts: making one of each takes longer.
    lists = [token_ids, positions, logit_rows, *places_of]
    packed = torch.frombuffer(array("q", chain.from_iterable(lists)), dtype=torch.int64)
    if not memory.in_main_memory:
        packed = packed.to(device)
    ids, places, rows_wanted, *of_groups = torch.split(packed, [len(numbers) for numbers in lists])
    batch = ForwardBatch(
        token_ids=ids,
        positions=places,
        starts=tuple(starts),
        logit_rows=rows_wanted,
        cache=memory.view([progress.tables for progress in work], ends, of_groups),
        adapters=adapters,
    )
    return batch, wanted


def _predictions(progress: Progress) -> tuple[range, int]:
    """The prompt tokens this step scores, and how many new ones it samples: the row of position p predicts p + 1's."""
    end = progress.cached + progress.scheduled
    scored = range(max(progress.scored, progress.cached + 1), min(len(progress.request.prompt_ids), end + 1))
    samples = end == progress.held and progress.request.max_tokens > 0
    return scored, 1 + len(progress.draft) if samples else 0


def _is_read(progress: Progress) -> bool:
    """Whether the last row's logits are read and nothing is sampled from them."""
    ends = progress.cached + progress.scheduled == progress.held
    return ends and isinstance(progress.request.readout, TokenLogits)
