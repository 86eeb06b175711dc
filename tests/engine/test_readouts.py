"""Requests that are only read: vectors and logits of a prompt, the same to the bit however it was computed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from ladder import MODELS

from landrace.engine import Engine, EngineOptions, Request, SamplingParams
from landrace.engine.reading import Pool
from landrace.engine.readout import POOL_KINDS, Pooling, PoolKind, TokenLogits
from landrace.errors import PromptTooLongError, RequestError
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.cpu_decoder import CpuDecoder
from landrace.models.declared import shapes_of
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import LoraSpec
from landrace.models.stored import StoredTensor, Weights, held_as

RUNGS = {
    "whole": EngineOptions(max_running=1, max_step_tokens=256, prefix_cache=False),
    "chunked": EngineOptions(max_running=1, max_step_tokens=5, prefix_cache=False),
    "batched": EngineOptions(max_running=16, prefix_cache=False),
    "batched and chunked": EngineOptions(block_size=32, max_step_tokens=11, snapshot_tokens=1),
    "pre-empted": EngineOptions(cache_tokens=80, max_step_tokens=64, prefix_cache=False),
    "pre-empted, with prefixes": EngineOptions(cache_tokens=80, max_step_tokens=16, snapshot_tokens=1),
    "prefix": EngineOptions(snapshot_tokens=1),
    "drafted": EngineOptions(snapshot_tokens=1, draft="ngram"),
}
HELD: list[tuple[str, Weights]] = [
    ("plain", "float32"),
    ("plain", "int8"),
    ("plain", "int4"),
    ("windows alone", "int4"),
    ("experts, sinks, a window", "bfloat16"),
    ("delta nets, a window", "int8"),
    ("latents, a window, experts", "float32"),
    ("streams that mix", "float32"),
    ("gated streams, delta nets, n-grams", "float32"),
    ("Kimi delta attention and latents, both gated, experts in a latent, attention residuals", "int8"),
    ("chosen pools", "float32"),
    ("compressed rows of more than the window", "float32"),
]
SKIPPED = 17
ASKED = (3, 61, 0)


def prompts() -> list[list[int]]:
    """Some begin alike, as queries under one instruction do."""
    source = random.Random(11)
    found = [[source.randrange(60) for _ in range(n)] for n in (35, 18, 1, 49)]
    return found + [found[0][:33] + [source.randrange(60) for _ in range(n)] for n in (16, 1, 30)]


def readers() -> list[Request]:
    """Each prompt read in several ways."""
    found = []
    for n, ids in enumerate(prompts()):
        found.append(Request.reading(f"last {n}", ids, Pooling.of(("last",), len(ids))))
        found.append(Request.reading(f"all {n}", ids, Pooling.of(POOL_KINDS, len(ids))))
        found.append(Request.reading(f"logits {n}", ids, TokenLogits(ASKED)))
        if len(ids) > SKIPPED:
            found.append(Request.reading(f"later {n}", ids, Pooling.of(("mean", "cls"), len(ids), SKIPPED)))
    return found


def strangers() -> list[Request]:
    """Others that write in the meantime."""
    params = SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True)
    return [Request(f"stranger {n}", tuple(ids), params) for n, ids in enumerate(prompts())]


def pooled(rows: np.ndarray, kind: PoolKind, first: int) -> np.ndarray:
    """By the formula, row after row in float64."""
    own = rows[first:].astype(np.float64)
    weights = np.arange(first + 1, len(rows) + 1)
    total, weighted = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for row, weight in zip(own, weights, strict=True):
        total, weighted = total + row, weighted + weight * row
    return {
        "cls": own[0],
        "last": own[-1],
        "max": own.max(0),
        "mean": total / len(own),
        "mean_sqrt_len": total / len(own) ** 0.5,
        "weighted_mean": weighted / weights.sum(),
    }[kind].astype(np.float32)


def expected(decoder: Any, request: Request, rows: Sequence[AdapterRows] = ()) -> np.ndarray:
    """From one pass over the whole prompt."""
    with torch.inference_mode():
        packed = replace(ForwardBatch.packed([list(request.prompt_ids)]), adapters=tuple(rows))
        logits, hidden = decoder.with_hidden(packed)
    if isinstance(request.readout, TokenLogits):
        return logits[-1, list(request.readout.token_ids)].numpy()
    assert request.readout is not None
    own = [pooled(hidden.numpy(), kind, request.readout.first) for kind in request.readout.kinds]
    return np.concatenate(own)


def on_cpu(extension: ModuleType, decoder: Decoder, weights: Weights, threads: int = 2) -> CpuDecoder:
    held = {name: held_as(name, StoredTensor.of(tensor), weights) for name, tensor in decoder.named_tensors()}
    return CpuDecoder(decoder.spec, extension, threads=threads).load(held)


@pytest.mark.parametrize(("model", "weights"), HELD)
def test_a_vector_is_its_prompt_s_own_to_the_bit(
    model: str, weights: Weights, tiny_decoder: Callable, tokenizer: Any, extension: ModuleType, free_rows: None
) -> None:
    decoder = on_cpu(extension, tiny_decoder(**MODELS[model]), weights)
    wanted = {request.id: expected(decoder, request) for request in readers()}
    for name, options in RUNGS.items():
        others = strangers()
        requests = [request for n, one in enumerate(readers()) for request in (one, *others[n : n + 1])]
        exact = EngineOptions(**{**vars(options), "cache_dtype": "float32"})
        for completion in Engine(decoder, tokenizer, exact).generate(requests):
            assert completion.error is None, (name, completion)
            if completion.request_id in wanted:
                assert completion.read is not None and not completion.token_ids
                assert np.array_equal(completion.read, wanted[completion.request_id]), (name, completion.request_id)


def test_threads_do_not_show(tiny_decoder: Callable, tokenizer: Any, extension: ModuleType) -> None:
    decoders = [on_cpu(extension, tiny_decoder(), "int8", threads) for threads in (1, 2, 3)]
    found = [[one.read for one in Engine(decoder, tokenizer).generate(readers())] for decoder in decoders]
    for others in found[1:]:
        assert all(np.array_equal(one, other) for one, other in zip(found[0], others, strict=True))


@pytest.mark.parametrize("model", MODELS)
def test_hidden_rows_are_what_the_head_reads(model: str, tiny_decoder: Callable) -> None:
    decoder = tiny_decoder(**{**MODELS[model], "tied": False})
    with torch.inference_mode():
        batch = ForwardBatch.packed([prompts()[0]])
        logits, hidden = decoder.with_hidden(batch)
        assert torch.equal(logits, decoder(batch))
        again = hidden @ decoder.lm_head.weight.T / decoder.spec.logit_divisor
    assert hidden.shape == (35, decoder.spec.d_model)
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_rows", [1, 2, 7, 100])
@pytest.mark.parametrize("width", [1, 3, 64, 384])
def test_pooling_is_the_same_in_any_pieces(n_rows: int, width: int) -> None:
    random_numbers = np.random.default_rng(n_rows * width)
    rows = (random_numbers.standard_normal((n_rows, width)) * 10.0 ** random_numbers.integers(-3, 4, width)).astype(
        np.float32
    )
    first = 5
    wanted = np.concatenate([pooled(np.concatenate([rows[:1]] * first + [rows]), kind, first) for kind in POOL_KINDS])
    for size in (1, 2, 3, 13, n_rows):
        pool = Pool(POOL_KINDS)
        for start in range(0, n_rows, size):
            pool.add(rows[start : start + size], first + start)
        assert np.array_equal(pool.vector(), wanted), size


def test_an_adapter_s_rows_are_its_own(tiny_decoder: Callable, tokenizer: Any, extension: ModuleType) -> None:
    decoder = on_cpu(extension, tiny_decoder(), "float32")
    engine = Engine(decoder, tokenizer)
    spec = LoraSpec(rank=2, alpha=4.0, targets=("q_proj", "down_proj"))
    generator = torch.Generator().manual_seed(2)
    shapes = shapes_of(decoder.spec)
    names = [name for name in shapes if name.endswith(("q_proj.weight", "down_proj.weight"))]
    tensors = {}
    for name in names:
        base, (n_out, n_in) = name.removesuffix(".weight"), shapes[name]
        tensors[f"{base}.lora_A"] = torch.randn(2, n_in, generator=generator)
        tensors[f"{base}.lora_B"] = torch.randn(n_out, 2, generator=generator)
    engine.add_adapter("tuned", spec, tensors)
    plain = [one.read for one in engine.embed(prompts(), ("mean",))]
    tuned = [one.read for one in engine.embed(prompts(), ("mean",), adapter="tuned")]
    assert all(not np.allclose(one, other) for one, other in zip(plain, tuned, strict=True))
    request = Request.reading("one", prompts()[3], Pooling(("mean",)))
    assert np.array_equal(tuned[3], expected(decoder, request, [AdapterRows(0, None)]))


def test_prefixes_serve_what_reads_the_end(tiny_decoder: Callable, tokenizer: Any) -> None:
    engine = Engine(tiny_decoder(), tokenizer)
    engine.embed(prompts()[:1])
    (last,) = engine.embed(prompts()[4:5])
    (mean,) = engine.embed(prompts()[4:5], ("mean",))
    (later,) = engine.embed(prompts()[4:5], ("mean",), skipped=20)
    assert (last.cached_prompt_tokens, mean.cached_prompt_tokens, later.cached_prompt_tokens) == (32, 0, 16)


def test_drafts_by_the_model_s_own_layer_change_no_vector(tiny_decoder: Callable, tokenizer: Any) -> None:
    decoder = tiny_decoder(mtp=True)
    found = {}
    for draft in (None, "mtp"):
        engine = Engine(decoder, tokenizer, EngineOptions(draft=draft, max_step_tokens=19))
        answers = engine.generate([*readers(), *strangers()])
        found[draft] = [one.read for one in answers if one.read is not None]
    assert len(found["mtp"]) == len(readers())
    assert all(np.allclose(one, other, atol=1e-5) for one, other in zip(*found.values(), strict=True))
    streams = Engine(tiny_decoder(mtp=True, **MODELS["streams that mix"]), tokenizer, EngineOptions(draft="mtp"))
    (refused,) = streams.embed(prompts()[:1])
    assert refused.error is not None and "several streams" in refused.error.message


def test_rows_without_numbers_are_an_error_of_that_request_alone(tiny_decoder: Callable, tokenizer: Any) -> None:
    decoder = tiny_decoder(tied=False)
    with torch.no_grad():
        decoder.embed_tokens.weight[7] = float("nan")
    sound, broken = [1, 2, 3], [1, 7, 3]
    for kinds in (("last",), ("mean",)):
        one, other = Engine(decoder, tokenizer).embed([sound, broken], kinds)
        assert one.error is None and one.read is not None
        assert other.error is not None and "finite" in other.error.message and other.read is None


@pytest.mark.parametrize(
    ("readout", "said"),
    [
        (Pooling(()), "by nothing"),
        (Pooling(("median",)), "'median'"),  # type: ignore[arg-type]
        (Pooling(("mean",), 3), "from 3 on"),
        (Pooling(("mean",), -1), "from -1 on"),
        (TokenLogits(()), "no token"),
        (TokenLogits((5, 64)), "token 64"),
    ],
)
def test_what_cannot_be_read_is_refused(readout: Any, said: str, tiny_decoder: Callable, tokenizer: Any) -> None:
    engine = Engine(tiny_decoder(), tokenizer)
    with pytest.raises(RequestError, match=said):
        engine.add(Request.reading("one", [1, 2, 3], readout))
    assert not engine.has_work


def test_a_prompt_may_fill_the_model_and_is_never_shortened(tiny_decoder: Callable, tokenizer: Any) -> None:
    engine = Engine(tiny_decoder(), tokenizer, EngineOptions(max_length=32, context_overflow="shift"))
    (full,) = engine.embed([[1] * 32])
    assert full.error is None and full.dropped_tokens == 0 and full.finish_reason == "length"
    with pytest.raises(PromptTooLongError, match="33"):
        engine.add(Request.reading("one", [1] * 33, Pooling.of(("last",), 33)))
