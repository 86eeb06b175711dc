"""Steps that are repeated on the same tensors compute what steps made for their batch do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from ladder import MODELS

from landrace.engine import Engine, EngineOptions, Request, SamplingParams
from landrace.models.batch import ForwardBatch
from landrace.models.decoder import Decoder
from landrace.models.mixer_spec import DualChunk, RopeSpec
from landrace.models.reference_ops import ReferenceOps
from landrace.models.repeated_step import RepeatedStep, repeatable, sizes_of

REPEATABLE = ("plain", "window", "windows alone", "chunks, a window, all", "latents", "dynamic rope", "longrope")
ON_TRITON = ("plain", "chunks, a window, all", "latents", "experts", "experts, sinks, a window")


class Repeating(Decoder):
    """Computes what it can twice: as its batch says, and on padded tensors."""

    operations: type[ReferenceOps] = ReferenceOps
    single = several = 0
    worst = 0.0

    def new_cache(self, n_slots, dtype=None, n_guesses=0):  # type: ignore[no-untyped-def]
        return super().new_cache([n + 1 for n in n_slots], dtype, n_guesses)

    def forward(self, batch: ForwardBatch, **options: object) -> torch.Tensor:  # type: ignore[override]
        expected = super().forward(batch)
        sizes = sizes_of(batch, self.spec, self.operations)
        if sizes is not None and batch.cache is not None and batch.logit_rows is not None:
            padded = replace(sizes, n_rows=sizes.n_rows + 3, n_logits=sizes.n_logits + 2)
            step = RepeatedStep(self, batch.cache.layers, padded, self.operations)
            for _ in range(2):  # what another batch left behind does not matter
                step.fill(batch)
                found = step.compute(batch.cache.layers)[: len(batch.logit_rows)]
            if len(found):
                self.worst = max(self.worst, (found - expected).abs().max().item())
            self.single += sizes.single
            self.several += not sizes.single
        return expected


def serve(decoder: Repeating, tokenizer: object, n_tokens: int) -> None:
    params = SamplingParams(max_tokens=n_tokens, temperature=0.0, ignore_eos=True)
    prompts = [(1, 2, 3), tuple(range(25)), (7,) * 9]
    done = Engine(decoder, tokenizer, EngineOptions(block_size=4, max_step_tokens=16)).generate(
        [Request(f"r{i}", prompt, params) for i, prompt in enumerate(prompts)]
    )
    assert [completion.error for completion in done] == [None] * 3


@pytest.mark.parametrize("model", REPEATABLE)
def test_a_repeated_step_computes_what_its_batch_says(model: str, tiny_decoder: Callable, tokenizer: object) -> None:
    made = tiny_decoder(**MODELS[model])
    decoder = Repeating(made.spec).load(made.named_tensors())
    assert isinstance(decoder, Repeating) and repeatable(decoder.spec)
    serve(decoder, tokenizer, 30)
    assert decoder.single > 20 and decoder.several == 0
    assert decoder.worst < 1e-4


@pytest.mark.parametrize("model", ON_TRITON)
def test_the_same_by_triton_kernels(model: str, tiny_decoder: Callable, tokenizer: object, triton_device: str) -> None:
    """Prompts are repeated there as well, but for latents."""
    from landrace.models.gpu_ops import GpuOps

    made = tiny_decoder(**MODELS[model])
    decoder = Repeating(made.spec).load(made.named_tensors(), device=triton_device)
    assert isinstance(decoder, Repeating) and repeatable(decoder.spec, GpuOps)
    decoder.operations = GpuOps
    GpuOps.prepare(decoder)
    serve(decoder, tokenizer, 4)
    assert decoder.single > 0 and (decoder.several > 1 or model == "latents")
    assert decoder.worst < 1e-4


@pytest.mark.parametrize("model", ["experts", "delta nets", "chosen latents", "chosen blocks"])
def test_what_asks_the_host_is_not_repeated(model: str, tiny_decoder: Callable) -> None:
    assert not repeatable(tiny_decoder(**MODELS[model]).spec)


def test_dual_chunks_are_not_repeated(tiny_decoder: Callable) -> None:
    """Their queries turn by tables that a repeated step does not bring."""
    rope = RopeSpec(10_000.0, 8, chunks=DualChunk(12, 16), original_length=64)
    assert not repeatable(tiny_decoder(rope=rope).spec)
