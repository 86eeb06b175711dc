"""A stand-in for a decoder that recites, and what tests of the engine ask of it."""

from __future__ import annotations

import torch

from landrace.engine import Completion, Engine, Request, SamplingParams
from landrace.models.batch import ForwardBatch

VOCAB = 64
EOS, EMOJI = 63, [32, 33, 34, 35]


class Script:
    """Stands in for a decoder: each sequence's first token chooses a line of `lines`, which it then recites."""

    def __init__(self, decoder: object, lines: list[list[int]]) -> None:
        self.spec, self.device, self.lines = decoder.spec, decoder.device, lines  # type: ignore[attr-defined]
        self.new_cache = decoder.new_cache  # type: ignore[attr-defined]
        self.choose_tokens, self.around_step = decoder.choose_tokens, decoder.around_step  # type: ignore[attr-defined]
        self.cache_tile = 1
        self.line_of_slot: dict[int, int] = {}

    def __call__(self, batch: ForwardBatch) -> torch.Tensor:
        (view,) = batch.cache.groups.values()
        starts = [int(slots[0]) for slots in view.sequence_slots]
        for sequence, first_slot in enumerate(starts):
            row = batch.starts[sequence]
            if batch.positions[row] == 0:
                self.line_of_slot[first_slot] = int(batch.token_ids[row])
        logits = torch.zeros(len(batch.logit_rows), VOCAB)
        for index, row in enumerate(batch.logit_rows.tolist()):
            sequence = max(s for s, start in enumerate(batch.starts[:-1]) if start <= row)
            line = self.lines[self.line_of_slot[starts[sequence]]]
            position = int(batch.positions[row])
            logits[index, line[position % len(line)]] = 9.0
        return logits


def greedy(**fields: object) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 20, "temperature": 0.0, **fields})


def one(engine: Engine, prompt: tuple[int, ...] = (0,), **fields: object) -> Completion:
    return engine.generate([Request("r", prompt, greedy(**fields))])[0]


def check_all_free(engine: Engine) -> None:
    for pool in (group.pool for group in engine._scheduler.cache.groups):
        assert len(pool.free) == pool.n_blocks


def ids(text: str) -> list[int]:
    return [ord(letter) - 97 if letter.isalpha() else {" ": 26, ".": 27}[letter] for letter in text]
