"""The ladder for blocks chosen by means of keys, whose texts must be longer than those of the other models: on the C++
kernels to the bit, on the reference kernels token for token, with adapters among them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from test_cpu_equivalence import CACHES, RUNGS, adapter, check, on_cpu, oracle, with_cache

from landrace.engine import Engine, EngineOptions, Request, SamplingParams
from landrace.models.selection_spec import MeanSelection
from landrace.models.stored import Weights

SELECTION = MeanSelection(16, 5, 1, 2, dense_length=128)
"""The row at position 127 is the first that must choose: one or two blocks of 5 to 10."""
MODEL = {"head_dim": 16, "selection": SELECTION, "max_length": 512}
ADAPTERS = (None, "first", "second")
SCALED = {
    name: replace(
        options,
        cache_tokens=256 if options.cache_tokens == 80 else options.cache_tokens,
        max_step_tokens=4 * options.max_step_tokens,
    )
    for name, options in RUNGS.items()
}
pytestmark = pytest.mark.usefixtures("free_rows")


def make_requests() -> list[Request]:
    """Prompts that end before, at and behind the first row that chooses, and two that begin alike."""
    source = random.Random(5)
    prompts = [[source.randrange(60) for _ in range(n)] for n in (190, 118, 127, 31)]
    prompts += [prompts[0][:150] + [source.randrange(60) for _ in range(n)] for n in (5, 1)]
    params = SamplingParams(max_tokens=14, temperature=0.0, ignore_eos=True, logprobs=3, prompt_logprobs_from=1)
    return [Request(f"r{n}", tuple(ids), params, ADAPTERS[n % 3]) for n, ids in enumerate(prompts)]


@pytest.mark.parametrize(("weights", "cache"), [("float32", "float32"), ("int8", "int8"), ("int4", "float16")])
def test_every_rung_has_the_same_bits(
    weights: Weights, cache: str, extension: ModuleType, tiny_decoder: Callable, tokenizer: object
) -> None:
    base, requests = tiny_decoder(**MODEL), make_requests()
    adapters = {name: adapter(base, seed) for seed, name in enumerate(ADAPTERS[1:])}
    expected = []
    for request in requests:
        alone = on_cpu(extension, base, weights)
        slot = None if request.adapter is None else alone.add_adapter(*adapters[request.adapter])
        expected.append(oracle(alone, request, CACHES[cache], slot))
    for options in SCALED.values():
        engine = Engine(on_cpu(extension, base, weights), tokenizer, with_cache(options, cache))
        for name, (spec, tensors) in adapters.items():
            engine.add_adapter(name, spec, tensors)
        check(engine.generate(requests), expected)


def test_the_reference_kernels_say_the_same(extension: ModuleType, tiny_decoder: Callable, tokenizer: object) -> None:
    """In blocks that are no whole means, and cut in the middle of them."""
    base, requests = tiny_decoder(**MODEL), [replace(one, adapter=None) for one in make_requests()]
    theirs = Engine(on_cpu(extension, base, "float32"), tokenizer, EngineOptions(cache_tokens=2048)).generate(requests)
    for options in (
        EngineOptions(max_step_tokens=29, block_size=7, prefix_cache=False),
        EngineOptions(block_size=4, cache_tokens=260, max_step_tokens=64),
        EngineOptions(block_size=8, draft="ngram"),
    ):
        for ours, other in zip(Engine(base, tokenizer, options).generate(requests), theirs, strict=True):
            assert ours.error is None and ours.token_ids == other.token_ids
            told = [torch.tensor([one.logprob for one in (*x.prompt_logprobs, *x.logprobs)]) for x in (ours, other)]
            assert torch.allclose(*told, atol=1e-4, rtol=0)
