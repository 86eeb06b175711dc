"""A model that writes drafts: answers stay what they are, its cache follows, and it is silent where it does not pay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from drafted import CASES, MODELS, OPTIONS, Watched, check, generate, requests_of
from matrix import mostly_long

from landrace.engine import Engine, EngineOptions, Request, SamplingParams
from landrace.engine import draft_model as draft_model_module
from landrace.engine.draft_model import DraftModel
from landrace.errors import OptionError
from landrace.models.batch import ForwardBatch

DRAFT = "a smaller one"


def nearly(decoder: Any, noise: float) -> Any:
    """Changes the weights by so much of what they are: a model that often agrees with the one it was."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter += noise * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return decoder


def drafting_engine(decoder: Any, tokenizer: Any, options: EngineOptions, draft: Any) -> Engine:
    return Engine(decoder, tokenizer, replace(options, draft=DRAFT), draft_model=draft)


def held_blocks(engine: Engine) -> int:
    """Blocks of the draft model's cache that somebody holds."""
    assert engine._drafting is not None and isinstance(engine._drafting._writer, DraftModel)
    groups = engine._drafting._writer._cache.groups
    return sum(group.pool.n_blocks - len(group.pool.free) for group in groups)


@pytest.mark.matrix
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("kernels", "options", "model"), CASES)
def test_the_same_with_a_model_as_without(
    kernels: str, options: str, model: str, make_model: Callable, tiny_decoder: Callable, tokenizer: object
) -> None:
    seed = [*OPTIONS].index(options)
    decoder = make_model(kernels, seed=seed, **MODELS[model])
    requests = requests_of(Random(seed))
    plain = generate(decoder, tokenizer, OPTIONS[options], requests)
    for draft in (nearly(tiny_decoder(seed=seed, **MODELS[model]), 0.1), tiny_decoder(seed=seed + 50, window=5)):
        engine = drafting_engine(decoder, tokenizer, OPTIONS[options], draft)
        drafted = engine.generate(requests)
        check(drafted, plain, exactly=kernels != "reference")
        assert sum(one.drafted_tokens for one in drafted) > 20
        assert held_blocks(engine) == 0


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kernels", ["reference", "float32"])
def test_a_model_guesses_itself(kernels: str, model: str, make_model: Callable, tokenizer: object) -> None:
    """Its cache holds what the model's own would, and both draw by the same numbers: no guess is wrong."""
    decoder, draft = (make_model(kernels, **MODELS[model]) for _ in range(2))
    requests = [one for one in requests_of(Random(3)) if one.params.prompt_logprobs_from is None]
    drafted = drafting_engine(decoder, tokenizer, EngineOptions(), draft).generate(requests)
    check(drafted, generate(decoder, tokenizer, EngineOptions(), requests), exactly=kernels != "reference")
    rejected = sum(one.drafted_tokens - one.accepted_tokens for one in drafted)
    ended_inside_a_draft = sum(one.finish_reason == "stop" for one in drafted)
    assert sum(one.accepted_tokens for one in drafted) > 200
    assert rejected <= 16 * ended_inside_a_draft


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("model", mostly_long(MODELS, ("plain", "delta nets", "compressed rows")))
def test_guesses_are_what_the_draft_model_says_of_the_text(
    model: str, make_model: Callable, tiny_decoder: Callable, naive_logits: Callable, tokenizer: object
) -> None:
    """Whatever of its cache and its states earlier guesses have left there."""
    shape = MODELS[model]
    decoder, draft = make_model("reference", **shape), nearly(tiny_decoder(**shape), 0.2)
    params = SamplingParams(max_tokens=50, temperature=0.0, ignore_eos=True)
    requests = [Request(name, tuple(range(1, length)), params) for name, length in (("a", 6), ("b", 30))]
    engine = drafting_engine(decoder, tokenizer, EngineOptions(max_step_tokens=24), draft)
    n_drafted = 0

    def look(batch: ForwardBatch) -> None:
        nonlocal n_drafted
        for progress in (live.progress for live in engine._live.values()):
            text = list(progress.tokens)
            for guess in progress.draft:
                assert guess == int(naive_logits(draft, text)[-1].argmax())
                text.append(guess)
            n_drafted += len(progress.draft)

    engine.decoder = Watched(decoder, look)  # type: ignore[assignment]
    done = engine.generate(requests)
    assert sum(one.drafted_tokens for one in done) == n_drafted > 40
    assert 5 < sum(one.accepted_tokens for one in done) < n_drafted - 5


def batch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on, the sizes of the draft model's batches."""
    sizes: list[int] = []
    build = draft_model_module.build_batch

    def counting(work: Sequence[Any], *rest: Any) -> Any:
        built = build(work, *rest)
        sizes.append(built[0].token_ids.numel())
        return built

    monkeypatch.setattr(draft_model_module, "build_batch", counting)
    return sizes


@pytest.mark.usefixtures("eager")
def test_a_prompt_is_read_once_and_in_parts(
    make_model: Callable, tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = batch_sizes(monkeypatch)
    options = EngineOptions(max_step_tokens=20, prefix_cache=False)
    decoder = make_model("reference")
    requests = [Request(name, tuple(range(1, 55)), SamplingParams(max_tokens=30, ignore_eos=True)) for name in "ab"]
    drafting_engine(decoder, tokenizer, options, make_model("reference")).generate(requests)
    assert max(sizes) <= 20
    assert sum(sizes) <= 2 * (54 + 2 * 30)


@pytest.mark.usefixtures("free_rows")
def test_it_is_silent_where_guesses_are_wrong_and_probes(make_model: Callable, tokenizer: object) -> None:
    decoder, other = make_model("reference"), make_model("reference", seed=9)
    params = SamplingParams(max_tokens=180, temperature=1.0, seed=1, ignore_eos=True)
    engine = drafting_engine(decoder, tokenizer, EngineOptions(), other)
    first, second = (engine.generate([Request(name, (1, 2, 3), params)])[0] for name in ("first", "second"))
    assert first.drafted_tokens < 40
    assert 1 <= second.drafted_tokens <= 5


@pytest.mark.usefixtures("eager")
def test_what_the_draft_model_cannot_read_has_no_drafts(
    make_model: Callable, tiny_decoder: Callable, tokenizer: object
) -> None:
    """Tokens and positions beyond its own, and biases of such tokens."""
    decoder = make_model("reference")
    short = tiny_decoder(max_length=32)
    long = Request("long", tuple(range(1, 40)), SamplingParams(max_tokens=9, ignore_eos=True, temperature=0))
    grows = Request("grows", tuple(range(1, 25)), SamplingParams(max_tokens=30, ignore_eos=True, temperature=0))
    engine = drafting_engine(decoder, tokenizer, EngineOptions(), short)
    drafted = engine.generate([long, grows])
    check(drafted, generate(decoder, tokenizer, EngineOptions(), [long, grows]), exactly=False)
    assert drafted[0].drafted_tokens == 0 < drafted[1].drafted_tokens <= 16

    few = tiny_decoder()
    few.spec = replace(few.spec, vocab_size=40)
    biased = SamplingParams(max_tokens=9, ignore_eos=True, logit_bias={50: -3.0})
    engine = drafting_engine(decoder, tokenizer, EngineOptions(), few)
    for request in (Request("biased", (1, 2), biased), Request("beyond", (1, 50), replace(biased, logit_bias={}))):
        assert engine.generate([request])[0].drafted_tokens == 0


@pytest.mark.usefixtures("eager")
def test_what_ends_early_gives_its_room_back(make_model: Callable, tokenizer: object) -> None:
    decoder = make_model("reference")
    engine = drafting_engine(decoder, tokenizer, EngineOptions(), make_model("reference"))
    params = SamplingParams(max_tokens=60, ignore_eos=True)
    for name in "abc":
        engine.add(Request(name, (1, 2, 3), params))
    for _ in range(4):
        engine.step()
    assert held_blocks(engine) > 0
    engine.abort("a")
    engine.weights_changed()
    engine.step()
    assert held_blocks(engine) == 0 and not engine.has_work


def test_a_draft_needs_what_writes_it(make_model: Callable, tokenizer: object) -> None:
    decoder = make_model("reference")
    with pytest.raises(OptionError, match="oracle"):
        Engine(decoder, tokenizer, EngineOptions(draft="oracle"))
    with pytest.raises(OptionError, match="ngram"):
        Engine(decoder, tokenizer, EngineOptions(draft="ngram"), draft_model=decoder)
