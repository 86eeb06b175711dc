"""The equivalence ladder: chunked, paged, batched, pre-empted, cached or drafted, a request gets the same tokens.

The bottom rung is a full forward pass over the whole sequence for every token, without a cache.
On the real model all sequences share those passes, to save time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from ladder import MODELS, check_what_the_rungs_do
from matrix import mostly_long

from landrace.engine import Completion, Engine, EngineOptions, Request, SamplingParams
from landrace.engine.sampler import SamplingState, choose_tokens
from landrace.model import default_device
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.declared import shapes_of
from landrace.models.decoder import Decoder
from landrace.models.graph_decoder import GraphDecoder
from landrace.models.lora_spec import LoraSpec
from landrace.models.serving import ServingDecoder

snapshots = partial(EngineOptions, snapshot_tokens=1)
"""A state is kept at the end of every block."""
RUNGS = {
    "cached": EngineOptions(max_running=1, max_step_tokens=256, prefix_cache=False),
    "chunked": EngineOptions(max_running=1, max_step_tokens=5, prefix_cache=False),
    "odd blocks": EngineOptions(max_running=1, block_size=3, prefix_cache=False),
    "one-token blocks": EngineOptions(max_running=1, block_size=1, cache_tokens=200, prefix_cache=False),
    "batched": EngineOptions(max_running=16, prefix_cache=False),
    "batched and chunked": snapshots(block_size=5, max_step_tokens=11),
    "pre-empted": EngineOptions(block_size=4, cache_tokens=64, max_step_tokens=64, prefix_cache=False),
    "pre-empted, with prefixes": snapshots(block_size=4, cache_tokens=64, max_step_tokens=16),
    "prefix": snapshots(block_size=4),
    "drafted": snapshots(block_size=8, draft="ngram"),
    "drafted, pre-empted": snapshots(block_size=4, cache_tokens=64, max_step_tokens=16, draft="ngram"),
}
pytestmark = pytest.mark.usefixtures("free_rows")


@pytest.fixture(scope="module")
def tiny_decoder(tiny_decoder: Callable[..., Decoder]) -> Callable[..., ServingDecoder]:
    """On the device that an opened model would be on."""

    def make(**options: object) -> ServingDecoder:
        decoder = tiny_decoder(**options)
        there = Decoder(decoder.spec).load(decoder.named_tensors(), device=default_device())
        return there if there.device.type == "cpu" else GraphDecoder(there)

    return make


def make_requests(adapters: tuple[str | None, ...] = (None,), **params: object) -> list[Request]:
    """Prompts of mixed lengths; every third begins like the first, so that prefixes meet."""
    source = random.Random(5)
    prompts: list[list[int]] = []
    for index in range(10):
        fresh = [source.randrange(60) for _ in range(source.choice([1, 2, 7, 16, 23]) if index else 16)]
        prompts.append(prompts[0][:12] + fresh if index % 3 == 2 else fresh)
    return [
        Request(
            id=f"r{index}",
            prompt_ids=tuple(prompt),
            params=SamplingParams(
                **{"max_tokens": 4 + 8 * (index % 4), "temperature": 0.0, "ignore_eos": True, "logprobs": 2, **params}
            ),
            adapter=adapters[index % len(adapters)],
        )
        for index, prompt in enumerate(prompts)
    ]


def oracle(
    decoder: Decoder, naive_logits: Callable[..., torch.Tensor], request: Request, slot: int | None = None
) -> tuple[list[int], list[float], list[float]]:
    """Tokens, their logprobs and the prompt's logprobs, one whole forward pass a token."""
    adapters = () if slot is None else (AdapterRows(slot, None),)
    state = SamplingState(request.params, request.prompt_ids, decoder.device)
    tokens, logprobs, prompt_logprobs = list(request.prompt_ids), [], []
    first = request.params.prompt_logprobs_from
    if first is not None:
        table = naive_logits(decoder, tokens, adapters=adapters).log_softmax(-1)
        prompt_logprobs = [table[i - 1, tokens[i]].item() for i in range(first, len(tokens))]
    for _ in range(request.params.max_tokens):
        logits = naive_logits(decoder, tokens, adapters=adapters)[-1:]
        token = choose_tokens(logits, [state], decoder.choose_tokens)[0]
        state.record(token)
        logprobs.append(logits.log_softmax(-1)[0, token].item())
        tokens.append(token)
    return tokens[len(request.prompt_ids) :], logprobs, prompt_logprobs


def check(completions: list[Completion], expected: list[tuple[list[int], list[float], list[float]]]) -> None:
    for completion, (tokens, logprobs, prompt_logprobs) in zip(completions, expected, strict=True):
        assert completion.error is None
        assert list(completion.token_ids) == tokens, completion.request_id
        assert [entry.token_id for entry in completion.logprobs] == tokens
        assert [entry.logprob for entry in completion.logprobs] == pytest.approx(logprobs, abs=1e-4)
        assert [entry.logprob for entry in completion.prompt_logprobs] == pytest.approx(prompt_logprobs, abs=1e-4)


@pytest.mark.parametrize("model", mostly_long(MODELS, ("plain", "window", "experts", "latents", "delta nets")))
def test_greedy_ladder(model: str, tiny_decoder: Callable, naive_logits: Callable, tokenizer: object) -> None:
    decoder = tiny_decoder(**MODELS[model])
    requests = make_requests()
    expected = [oracle(decoder, naive_logits, request) for request in requests]
    assert len({token for tokens, _, _ in expected for token in tokens}) > 10, "the model repeats itself: a weak test"
    for options in RUNGS.values():
        check(Engine(decoder, tokenizer, options).generate(requests), expected)


@pytest.mark.parametrize("model", ["plain", "delta nets"])
def test_the_rungs_are_what_they_say(model: str, tiny_decoder: Callable, tokenizer: object) -> None:
    """The pre-empted rung pre-empts, the prefix rung hits."""
    check_what_the_rungs_do(tiny_decoder(**MODELS[model]), tokenizer, RUNGS, make_requests)


def test_ladder_with_seeds_penalties_and_scores(
    tiny_decoder: Callable, naive_logits: Callable, tokenizer: object
) -> None:
    decoder = tiny_decoder(seed=3)
    requests = make_requests(
        temperature=1.2,
        seed=11,
        top_p=0.95,
        top_k=40,
        min_p=0.01,
        repetition_penalty=1.2,
        presence_penalty=0.3,
        frequency_penalty=0.2,
        logit_bias={3: 1.0},
    )
    for index, request in enumerate(requests):
        if len(request.prompt_ids) > 3:
            params = {**vars(request.params), "prompt_logprobs_from": 1 + index % 3, "seed": index}
            requests[index] = Request(request.id, request.prompt_ids, SamplingParams(**params))
    expected = [oracle(decoder, naive_logits, request) for request in requests]
    for options in RUNGS.values():
        check(Engine(decoder, tokenizer, options).generate(requests), expected)


def adapter(decoder: Decoder, seed: int) -> tuple[LoraSpec, dict[str, torch.Tensor]]:
    spec = LoraSpec(rank=4, alpha=8.0, targets=("q_proj", "v_proj", "down_proj"))
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (n_out, n_in) in ((n, s) for n, s in shapes_of(decoder.spec).items() if len(s) == 2):
        path = name.removesuffix(".weight")
        if path.rpartition(".")[2] in spec.targets:
            tensors[f"{path}.lora_A"] = torch.randn(4, n_in, generator=generator) * 0.3
            tensors[f"{path}.lora_B"] = torch.randn(n_out, 4, generator=generator) * 0.3
    return spec, tensors


def test_ladder_with_adapters_mixed_in_one_batch(
    tiny_decoder: Callable, naive_logits: Callable, tokenizer: object
) -> None:
    adapters = {name: adapter(tiny_decoder(), seed) for seed, name in enumerate(("first", "second"))}
    requests = make_requests(adapters=(None, "first", "second"))
    requests += [
        Request(f"same{name}", (1, 2, 3, 4) * 5, requests[0].params, name) for name in (None, "first", "second")
    ]
    expected = []
    for request in requests:
        decoder = tiny_decoder()
        slot = decoder.add_adapter(*adapters[request.adapter]) if request.adapter else None
        expected.append(oracle(decoder, naive_logits, request, slot))
    assert expected[-1][0] != expected[-2][0] != expected[-3][0]
    for options in RUNGS.values():
        engine = Engine(tiny_decoder(), tokenizer, options)
        for name, (spec, tensors) in adapters.items():
            engine.add_adapter(name, spec, tensors)
        check(engine.generate(requests), expected)


def test_requests_that_arrive_while_others_run(
    tiny_decoder: Callable, naive_logits: Callable, tokenizer: object
) -> None:
    decoder = tiny_decoder()
    requests = make_requests()
    expected = {request.id: oracle(decoder, naive_logits, request)[0] for request in requests}
    engine = Engine(decoder, tokenizer, EngineOptions(block_size=4, cache_tokens=200, max_step_tokens=20))
    tokens: dict[str, list[int]] = {request.id: [] for request in requests}
    queue = list(requests)
    while engine.has_work or queue:
        if queue:
            engine.add(queue.pop(0))
        for output in engine.step():
            tokens[output.request_id] += output.token_ids
    assert tokens == expected


def test_ladder_on_a_real_model(smollm2_path: Path) -> None:
    from landrace.model import open_model

    model = open_model(str(smollm2_path), dtype="float32")
    texts = ["The capital of France is", "Once upon a time", "def add(a, b):\n    return", "The capital of France was"]
    prompts = [tuple(model.tokenizer.encode(text)) for text in texts]
    params = SamplingParams(max_tokens=8, temperature=0.0, logprobs=0, ignore_eos=True)
    requests = [Request(f"r{index}", prompt, params) for index, prompt in enumerate(prompts)]
    sequences, logprobs = [list(prompt) for prompt in prompts], [[] for _ in prompts]
    for _ in range(params.max_tokens):
        ends = torch.tensor([len(tokens) for tokens in sequences]).cumsum(0) - 1
        with torch.inference_mode():
            table = model.decoder(ForwardBatch.packed(sequences, logit_rows=ends)).log_softmax(-1)
        for tokens, told, row in zip(sequences, logprobs, table, strict=True):
            tokens.append(int(row.argmax()))
            told.append(row[tokens[-1]].item())
    expected = [
        (tokens[len(prompt) :], told, []) for tokens, prompt, told in zip(sequences, prompts, logprobs, strict=True)
    ]
    strangers = [Request(f"s{i}", tuple(range(100 + i, 140 + 3 * i)), params) for i in range(6)]
    rungs = {
        "cached": EngineOptions(cache_tokens=512, max_running=1, prefix_cache=False),
        "batched": EngineOptions(cache_tokens=512, prefix_cache=False),
        "chunked": EngineOptions(cache_tokens=512, max_step_tokens=3, prefix_cache=False),
        "paged": EngineOptions(block_size=3, cache_tokens=513, prefix_cache=False),
        "pre-empted": EngineOptions(block_size=3, cache_tokens=48, max_step_tokens=7, prefix_cache=False),
        "all at once": EngineOptions(block_size=3, cache_tokens=48, max_step_tokens=7),
    }
    for options in rungs.values():
        check(Engine(model.decoder, model.tokenizer, options).generate(requests), expected)
    crowd = Engine(model.decoder, model.tokenizer, EngineOptions(cache_tokens=1024, prefix_cache=False))
    mixed = crowd.generate([*strangers[:3], *requests, *strangers[3:]])
    check(mixed[3 : 3 + len(requests)], expected)
    again = Engine(model.decoder, model.tokenizer, EngineOptions(block_size=2, cache_tokens=512))
    again.generate(requests)
    hits = again.generate(requests)
    assert all(hit.cached_prompt_tokens > 0 for hit in hits)
    check(hits, expected)
