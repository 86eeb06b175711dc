"""Decode steps that are repeated on the same tensors compute what steps made for their batch do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ladder import MODELS

from landrace.engine import Engine, EngineOptions, Request, SamplingParams
from landrace.models.batch import ForwardBatch
from landrace.models.decode_step import DecodeStep, repeatable
from landrace.models.decoder import Decoder
from landrace.models.mixer_spec import DualChunk, RopeSpec

REPEATABLE = ("plain", "window", "windows alone", "chunks, a window, all", "latents", "dynamic rope", "longrope")


class Repeating(Decoder):
    """Computes every step of one row a sequence twice: as its batch says, and on padded tensors."""

    compared = 0
    worst = 0.0

    def new_cache(self, n_slots, dtype=None, n_guesses=0):  # type: ignore[no-untyped-def]
        return super().new_cache([n + 1 for n in n_slots], dtype, n_guesses)

    def forward(self, batch: ForwardBatch, **options: object) -> torch.Tensor:  # type: ignore[override]
        n = batch.token_ids.numel()
        expected = super().forward(batch)
        if batch.cache is not None and len(batch.starts) == n + 1:
            longest = {kept: max(map(len, view.sequence_slots)) for kept, view in batch.cache.groups.items()}
            step = DecodeStep(self, batch.cache.layers, n + 3, {kept: size + 5 for kept, size in longest.items()})
            for _ in range(2):  # what another batch left behind does not matter
                step.fill(batch)
                found = step.compute(batch.cache.layers)[:n]
            assert batch.logit_rows is not None
            self.worst = max(self.worst, (found[batch.logit_rows] - expected).abs().max().item())
            self.compared += 1
        return expected


@pytest.mark.parametrize("model", REPEATABLE)
def test_a_repeated_step_computes_what_its_batch_says(model: str, tiny_decoder: Callable, tokenizer: object) -> None:
    made = tiny_decoder(**MODELS[model])
    decoder = Repeating(made.spec).load(made.named_tensors())
    assert isinstance(decoder, Repeating) and repeatable(decoder.spec)
    params = SamplingParams(max_tokens=30, temperature=0.0, ignore_eos=True)
    prompts = [(1, 2, 3), tuple(range(25)), (7,) * 9]
    Engine(decoder, tokenizer, EngineOptions(block_size=4)).generate(
        [Request(f"r{i}", prompt, params) for i, prompt in enumerate(prompts)]
    )
    assert decoder.compared > 20
    assert decoder.worst < 1e-4


@pytest.mark.parametrize("model", ["experts", "delta nets", "chosen latents", "chosen blocks"])
def test_what_asks_the_host_is_not_repeated(model: str, tiny_decoder: Callable) -> None:
    assert not repeatable(tiny_decoder(**MODELS[model]).spec)


def test_dual_chunks_are_not_repeated(tiny_decoder: Callable) -> None:
    """Their queries turn by tables that a repeated step does not bring."""
    rope = RopeSpec(10_000.0, 8, chunks=DualChunk(12, 16), original_length=64)
    assert not repeatable(tiny_decoder(rope=rope).spec)
