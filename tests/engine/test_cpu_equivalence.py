"""The equivalence ladder on the C++ kernels, to the bit: however a request was chunked, paged, batched, pre-empted,
cached or drafted, the same tokens with exactly the same logprobs.

The bottom rung is a forward pass over the whole sequence for every token, in memory of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from ladder import MODELS, check_what_the_rungs_do

from landrace.engine import Completion, Engine, EngineOptions, Request, SamplingParams
from landrace.engine.outputs import TokenLogprob
from landrace.engine.sampler import token_logprobs
from landrace.models.batch import INT4, AdapterRows, CacheView, ForwardBatch
from landrace.models.cpu_decoder import CpuDecoder
from landrace.models.declared import shapes_of
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import LoraSpec
from landrace.models.stored import StoredTensor, Weights, held_as

CACHES = {
    "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8, "int4": INT4
}  # fmt: skip
HELD: list[tuple[str, Weights, str]] = [
    *(("plain", weights, cache) for weights in ("float32", "int8", "int4") for cache in CACHES),
    ("window", "int4", "int8"),
    ("window", "bfloat16", "float32"),
    ("windows alone", "int4", "float16"),
    ("windows alone", "float32", "int4"),
    ("chunks, a window, all", "int8", "int8"),
    ("chunks, a window, all", "float32", "float32"),
    *(
        ("experts", weights, cache)
        for weights, cache in (("float32", "float32"), ("int8", "int8"), ("int4", "float16"))
    ),
    ("experts, sinks, a window", "bfloat16", "bfloat16"),
    ("experts, sinks, a window", "int4", "float16"),
    *(
        ("delta nets", weights, cache)
        for weights, cache in (("float32", "float32"), ("int8", "float16"), ("int4", "int8"))
    ),
    ("delta nets, a window", "int4", "float16"),
    ("delta nets, a window", "bfloat16", "int4"),
    ("delta nets alone", "bfloat16", "float32"),
    ("delta nets, latents", "int8", "bfloat16"),
    ("streams that mix", "float32", "float32"),
    ("streams that mix", "int4", "float16"),
    ("latents with sinks, streams alone", "int8", "int8"),
    ("latents with sinks, streams alone", "float32", "float32"),
    ("chosen latents with sinks, streams alone", "float32", "float32"),
    ("chosen latents with sinks, streams alone", "int8", "int8"),
    ("gated streams, delta nets, n-grams", "float32", "float32"),
    ("gated streams, delta nets, n-grams", "int4", "float16"),
    *(
        (model, weights, cache)
        for model in ("Kimi delta attention, latents", "lightning attention, a window")
        for weights, cache in (("float32", "float32"), ("int8", "float16"), ("int4", "int8"))
    ),
    ("lightning attention alone, experts", "bfloat16", "float32"),
    *(
        ("latents", weights, cache)
        for weights, cache in (("float32", "float32"), ("int8", "int8"), ("int4", "float16"))
    ),
    ("latents, a window, experts", "bfloat16", "bfloat16"),
    *(
        ("chosen latents", weights, cache)
        for weights, cache in (("float32", "float32"), ("int8", "int8"), ("int4", "float16"))
    ),
    ("chosen latents, followers", "bfloat16", "bfloat16"),
    *(
        ("chosen blocks", weights, cache)
        for weights, cache in (("float32", "float32"), ("int8", "int8"), ("int4", "float16"))
    ),
    *(
        (model, weights, cache)
        for model in (
            "chosen pools",
            "Kimi delta attention with a floor, gated pools of latents, streams that mix",
            "Kimi delta attention and latents, both gated, experts in a latent, attention residuals",
            "compressed rows",
        )
        for weights, cache in (("float32", "float32"), ("int8", "int8"), ("int4", "float16"))
    ),
    ("gated pools of latents, followers", "bfloat16", "bfloat16"),
    ("compressed rows of more than the window", "float32", "float32"),
    ("compressed rows of more than the window", "bfloat16", "bfloat16"),
    ("dynamic rope", "int8", "bfloat16"),
    ("longrope", "int4", "bfloat16"),
]
snapshots = partial(EngineOptions, snapshot_tokens=1)
"""A state is kept at the end of every block."""
RUNGS = {
    "cached": EngineOptions(max_running=1, max_step_tokens=256, prefix_cache=False),
    "chunked": EngineOptions(max_running=1, max_step_tokens=5, prefix_cache=False),
    "batched": EngineOptions(max_running=16, prefix_cache=False),
    "batched and chunked": snapshots(block_size=32, max_step_tokens=11),
    "pre-empted": EngineOptions(cache_tokens=80, max_step_tokens=64, prefix_cache=False),
    "pre-empted, with prefixes": snapshots(cache_tokens=80, max_step_tokens=16),
    "prefix": snapshots(),
    "drafted": snapshots(draft="ngram"),
    "drafted, pre-empted": snapshots(cache_tokens=80, max_step_tokens=16, draft="ngram"),
}
pytestmark = pytest.mark.usefixtures("free_rows")

Expected = tuple[list[int], list[TokenLogprob], list[TokenLogprob]]


def on_cpu(extension: ModuleType, decoder: Decoder, weights: Weights, *, isa: str | None = None) -> CpuDecoder:
    held = {name: held_as(name, StoredTensor.of(tensor), weights) for name, tensor in decoder.named_tensors()}
    return CpuDecoder(decoder.spec, extension, threads=2, isa=isa).load(held)


def with_cache(options: EngineOptions, cache: str) -> EngineOptions:
    return EngineOptions(**{**vars(options), "cache_dtype": cache})


def make_requests(adapters: Sequence[str | None] = (None,), **params: object) -> list[Request]:
    """Short prompts whose outputs outgrow the blocks that others want too, and longer ones that begin alike."""
    source = random.Random(5)
    prompts = [[source.randrange(60) for _ in range(n)] for n in (35, 14, 1, 2, 15, 7)]
    prompts += [prompts[0][:33] + [source.randrange(60) for _ in range(n)] for n in (16, 1)]
    defaults = {"temperature": 0.0, "ignore_eos": True, "logprobs": 3}
    return [
        Request(
            id=f"r{index}",
            prompt_ids=tuple(prompt),
            params=SamplingParams(**{**defaults, "max_tokens": (4, 36, 34)[index % 3], **params}),
            adapter=adapters[index % len(adapters)],
        )
        for index, prompt in enumerate(prompts)
    ]


def naive_logits(decoder: CpuDecoder, tokens: Sequence[int], dtype: torch.dtype, slot: int | None) -> torch.Tensor:
    """Logits [T, vocab] of one whole sequence in a cache that nobody used before."""
    n = len(tokens)
    slots, groups = torch.arange(n), decoder.spec.cache_groups
    layers = decoder.new_cache([-(-n // 16) * 16] * len(groups), dtype)
    return decoder(
        ForwardBatch(
            token_ids=torch.tensor(tokens),
            positions=slots,
            starts=(0, n),
            cache=CacheView.whole(layers, groups, slots, (slots,)),
            adapters=() if slot is None else (AdapterRows(slot, None),),
        )
    )


def oracle(decoder: CpuDecoder, request: Request, dtype: torch.dtype, slot: int | None = None) -> Expected:
    """Tokens, their logprobs and the prompt's logprobs, one whole forward pass a token."""
    tokens, logprobs = list(request.prompt_ids), []
    first = request.params.prompt_logprobs_from
    scores: list[TokenLogprob] = []
    n_top = request.params.logprobs or 0
    if first is not None:
        table = naive_logits(decoder, tokens, dtype, slot)
        for i in range(first, len(tokens)):
            scores += token_logprobs(table[i - 1 : i], [tokens[i]], [n_top])
    for _ in range(request.params.max_tokens):
        row = naive_logits(decoder, tokens, dtype, slot)[-1:]
        token = int(row.argmax())
        logprobs += token_logprobs(row, [token], [n_top])
        tokens.append(token)
    return tokens[len(request.prompt_ids) :], logprobs, scores


def check(completions: Sequence[Completion], expected: Sequence[Expected]) -> None:
    for completion, (tokens, logprobs, scores) in zip(completions, expected, strict=True):
        assert completion.error is None
        assert list(completion.token_ids) == tokens, completion.request_id
        assert list(completion.logprobs) == logprobs, completion.request_id
        assert list(completion.prompt_logprobs) == scores, completion.request_id


@pytest.mark.matrix
@pytest.mark.parametrize(("model", "weights", "cache"), HELD)
def test_greedy_ladder(
    model: str, weights: Weights, cache: str, extension: ModuleType, tiny_decoder: Callable, tokenizer: object
) -> None:
    decoder = on_cpu(extension, tiny_decoder(**MODELS[model]), weights)
    requests = make_requests()
    expected = [oracle(decoder, request, CACHES[cache]) for request in requests]
    assert len({token for tokens, _, _ in expected for token in tokens}) > 10, "the model repeats itself: a weak test"
    for options in RUNGS.values():
        check(Engine(decoder, tokenizer, with_cache(options, cache)).generate(requests), expected)


@pytest.mark.parametrize("model", ["plain", "delta nets", "compressed rows"])
def test_the_rungs_are_what_they_say(
    model: str, extension: ModuleType, tiny_decoder: Callable, tokenizer: object
) -> None:
    """The pre-empted rungs pre-empt, the prefix rungs hit."""
    decoder = on_cpu(extension, tiny_decoder(**MODELS[model]), "int4")
    check_what_the_rungs_do(decoder, tokenizer, RUNGS, make_requests)


def test_every_instruction_set_gives_the_same_tokens_and_logprobs(
    extension: ModuleType, tiny_decoder: Callable, tokenizer: object
) -> None:
    requests = make_requests(prompt_logprobs_from=1)
    requests = [request for request in requests if len(request.prompt_ids) > 1]
    for weights, cache in (("float32", "float32"), ("int4", "bfloat16"), ("int8", "int8")):
        expected = None
        for isa in extension.instruction_sets():
            decoder = on_cpu(extension, tiny_decoder(), weights, isa=isa)
            expected = expected or [oracle(decoder, request, CACHES[cache]) for request in requests]
            for name in ("batched and chunked", "pre-empted, with prefixes"):
                check(Engine(decoder, tokenizer, with_cache(RUNGS[name], cache)).generate(requests), expected)


def adapter(decoder: Decoder, seed: int) -> tuple[LoraSpec, dict[str, torch.Tensor]]:
    targets = ("q_proj", "v_proj", "down_proj") if seed else ("k_proj", "up_proj")
    spec = LoraSpec(rank=4, alpha=8.0, targets=targets)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (n_out, n_in) in ((n, s) for n, s in shapes_of(decoder.spec).items() if len(s) == 2):
        path = name.removesuffix(".weight")
        if path.rpartition(".")[2] in spec.targets:
            tensors[f"{path}.lora_A"] = torch.randn(4, n_in, generator=generator) * 0.3
            tensors[f"{path}.lora_B"] = torch.randn(n_out, 4, generator=generator) * 0.3
    return spec, tensors


@pytest.mark.parametrize(("weights", "cache"), [("float32", "float32"), ("int8", "bfloat16"), ("int4", "int8")])
def test_ladder_with_adapters_mixed_in_one_batch(
    weights: Weights, cache: str, extension: ModuleType, tiny_decoder: Callable, tokenizer: object
) -> None:
    base = tiny_decoder()
    adapters = {name: adapter(base, seed) for seed, name in enumerate(("first", "second"))}
    names = (None, "first", "second")
    requests = make_requests(adapters=names)
    requests += [Request(f"same{name}", (1, 2, 3, 4) * 5, requests[0].params, name) for name in names]
    # The bottom rung knows one adapter at a time: what else is attached must not matter.
    expected: list[Expected] = []
    for request in requests:
        alone = on_cpu(extension, base, weights)
        slot = None if request.adapter is None else alone.add_adapter(*adapters[request.adapter])
        expected.append(oracle(alone, request, CACHES[cache], slot))
    assert len({tuple(tokens) for tokens, _, _ in expected[-3:]}) == 3, "the adapters change nothing: a weak test"
    for options in RUNGS.values():
        engine = Engine(on_cpu(extension, base, weights), tokenizer, with_cache(options, cache))
        for name, (spec, tensors) in adapters.items():
            engine.add_adapter(name, spec, tensors)
        check(engine.generate(requests), expected)


def test_requests_that_arrive_while_others_run(
    extension: ModuleType, tiny_decoder: Callable, tokenizer: object
) -> None:
    """Random arrivals and aborts around them: those that finish have their own tokens."""
    decoder = on_cpu(extension, tiny_decoder(), "int4")
    requests = make_requests()
    expected = {r.id: oracle(decoder, r, decoder.cache_dtype) for r in requests}
    for seed in range(6):
        draw = random.Random(seed)
        options = EngineOptions(cache_tokens=draw.choice((144, 512)), max_step_tokens=draw.choice((7, 40, 200)))
        engine = Engine(decoder, tokenizer, options)
        waiting = draw.sample(requests, len(requests))
        aborted = {request.id for request in draw.sample(requests, 3)}
        tokens: dict[str, list[int]] = {r.id: [] for r in requests}
        logprobs: dict[str, list[TokenLogprob]] = {r.id: [] for r in requests}
        reasons: dict[str, str] = {}
        while waiting or engine.has_work:
            for _ in range(draw.choice((0, 0, 1, 2))):
                if waiting:
                    engine.add(waiting.pop())
            for output in engine.step():
                tokens[output.request_id] += output.token_ids
                logprobs[output.request_id] += output.logprobs
                if output.finish_reason is not None:
                    reasons[output.request_id] = output.finish_reason
                elif output.request_id in aborted and draw.random() < 0.2:
                    engine.abort(output.request_id)
        for name, reason in reasons.items():
            assert reason in ("length", "abort")
            n = len(tokens[name])
            assert tokens[name] == expected[name][0][:n]
            assert logprobs[name] == expected[name][1][:n]
            assert n == len(expected[name][0]) or reason == "abort"


def strangers(params: SamplingParams) -> list[Request]:
    return [Request(f"s{i}", tuple(range(100 + i, 140 + 3 * i)), params) for i in range(6)]


@pytest.mark.parametrize("cache", CACHES)
def test_ladder_on_a_real_model(cache: str, extension: ModuleType, smollm2: Mapping[str, object]) -> None:
    """SmolLM2 as stored: 4-bit matrices of two kinds."""
    decoder, tokenizer = smollm2["decoder"], smollm2["tokenizer"]
    assert isinstance(decoder, CpuDecoder)
    texts = ["The capital of France is", "Once upon a time", "def add(a, b):\n    return", "The capital of France was"]
    shared = tuple(tokenizer.encode("A long time ago, in a valley between two rivers, there was a small town. " * 2))
    params = SamplingParams(max_tokens=6, temperature=0.0, logprobs=5, ignore_eos=True)
    prompts = [tuple(tokenizer.encode(text)) for text in texts]
    prompts += [shared[:14], shared[3:16], shared + prompts[0], shared + prompts[1]]
    requests = [Request(f"r{index}", prompt, params) for index, prompt in enumerate(prompts)]
    expected = [oracle(decoder, request, CACHES[cache]) for request in requests]
    rungs = {
        "cached": EngineOptions(cache_tokens=512, max_running=1, prefix_cache=False),
        "batched": EngineOptions(cache_tokens=512, prefix_cache=False),
        "chunked": EngineOptions(cache_tokens=512, max_step_tokens=7, prefix_cache=False),
        "little room": EngineOptions(cache_tokens=64, max_step_tokens=9),
    }
    for options in rungs.values():
        check(Engine(decoder, tokenizer, with_cache(options, cache)).generate(requests), expected)
    crowd = Engine(decoder, tokenizer, with_cache(EngineOptions(cache_tokens=1024, prefix_cache=False), cache))
    others = strangers(params)
    check(crowd.generate([*others[:3], *requests, *others[3:]])[3 : 3 + len(requests)], expected)
    again = Engine(decoder, tokenizer, with_cache(EngineOptions(cache_tokens=512), cache))
    again.generate(requests)
    hits = again.generate(requests)
    assert [hit.cached_prompt_tokens >= 32 for hit in hits] == [False] * 6 + [True] * 2
    check(hits, expected)


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path, extension: ModuleType) -> Mapping[str, object]:
    from landrace.model import open_engine

    model = open_engine(str(smollm2_path), kernels="cpu", options=EngineOptions(cache_tokens=64)).model
    return {"decoder": model.decoder, "tokenizer": model.tokenizer}


@pytest.mark.parametrize("block_size", [1, 8, 24])
def test_blocks_that_are_no_tiles_are_refused(
    block_size: int, extension: ModuleType, tiny_decoder: Callable, tokenizer: object
) -> None:
    from landrace.errors import OptionError

    decoder = on_cpu(extension, tiny_decoder(), "int4")
    with pytest.raises(OptionError, match="16"):
        Engine(decoder, tokenizer, EngineOptions(block_size=block_size, cache_tokens=96))
