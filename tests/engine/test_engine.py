"""What the engine promises of requests: refusals, log-probabilities, seeds, and that it is left idle."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch
from recital import VOCAB, check_all_free, greedy, ids, one

from landrace.engine import Engine, EngineOptions, Request, SamplingParams, StepOutput
from landrace.errors import LandraceError, OptionError, RequestError
from landrace.models.batch import ForwardBatch


@pytest.mark.parametrize(
    ("prompt", "fields", "adapter", "field"),
    [
        ((), {}, None, "prompt"),
        ((VOCAB,), {}, None, "prompt"),
        ((1, -1), {}, None, "prompt"),
        ((1.0,), {}, None, "prompt"),
        (("a",), {}, None, "prompt"),
        (tuple([1] * 256), {}, None, "prompt"),
        (tuple([1] * 49), {}, None, "prompt"),
        ((1,), {"stop_token_ids": (VOCAB,)}, None, "stop_token_ids"),
        ((1,), {"logit_bias": {VOCAB: 1.0}}, None, "logit_bias"),
        ((1,), {"logprobs": VOCAB + 1}, None, "logprobs"),
        ((1, 2), {"prompt_logprobs_from": 2}, None, "prompt_logprobs_from"),
        ((1,), {}, "nobody", "adapter"),
    ],
)
def test_refused_at_once(
    tiny_decoder: Callable, tokenizer: object, prompt: tuple, fields: dict, adapter: str | None, field: str
) -> None:
    engine = Engine(tiny_decoder(), tokenizer, EngineOptions(cache_tokens=48))
    with pytest.raises(RequestError) as caught:
        engine.add(Request("r", prompt, greedy(**fields), adapter))
    assert caught.value.field == field
    assert not engine.has_work
    results = engine.generate([Request("bad", prompt, greedy(**fields), adapter), Request("good", (1,), greedy())])
    assert (results[0].finish_reason, results[0].error.field) == ("error", field)
    assert results[1].finish_reason in ("stop", "length")


def test_an_id_in_use_is_refused(tiny_decoder: Callable, tokenizer: object) -> None:
    engine = Engine(tiny_decoder(), tokenizer)
    request = Request("r", (1,), greedy(max_tokens=1))
    first, second = engine.generate([request, request])
    assert (first.finish_reason, second.finish_reason) == ("length", "error")
    assert second.error is not None and second.error.field == "id"
    assert engine.generate([request])[0].token_ids == first.token_ids, "a caller's request can be used again"


def test_prompt_logprobs_arrive_once_and_in_order(tiny_decoder: Callable, tokenizer: object) -> None:
    decoder = tiny_decoder()
    prompt = tuple((7 * i) % 60 for i in range(40))
    with torch.inference_mode():
        table = decoder(ForwardBatch.packed([list(prompt)])).log_softmax(-1)
    engine = Engine(decoder, tokenizer, EngineOptions(max_step_tokens=9))
    for _ in range(2):
        result = one(engine, prompt, max_tokens=0, prompt_logprobs_from=25, logprobs=3)
        assert (result.token_ids, result.text, result.finish_reason) == ((), "", "length")
        assert [entry.token_id for entry in result.prompt_logprobs] == list(prompt[25:])
        expected = [table[i - 1, prompt[i]].item() for i in range(25, 40)]
        assert [entry.logprob for entry in result.prompt_logprobs] == pytest.approx(expected, abs=1e-4)
        assert [[token for token, _ in entry.top] for entry in result.prompt_logprobs] == table[24:39].topk(
            3
        ).indices.tolist()
    assert result.cached_prompt_tokens == 16


def test_the_seed_is_reported(tiny_decoder: Callable, tokenizer: object) -> None:
    engine = Engine(tiny_decoder(), tokenizer)
    drawn = engine.generate([Request("r", (1,), SamplingParams(max_tokens=12))])[0]
    repeated = engine.generate([Request("r", (1,), SamplingParams(max_tokens=12, seed=drawn.seed))])[0]
    assert repeated.token_ids == drawn.token_ids and repeated.seed == drawn.seed


def test_generate_wants_an_idle_engine_and_leaves_one(tiny_decoder: Callable, tokenizer: object) -> None:
    engine = Engine(tiny_decoder(), tokenizer)

    def interrupt(output: StepOutput) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate([Request("r", (1,), greedy())], interrupt)
    assert not engine.has_work
    check_all_free(engine)
    engine.add(Request("other", (1,), greedy()))
    with pytest.raises(LandraceError):
        engine.generate([Request("r", (1,), greedy())])


def test_logits_are_asked_for_only_where_they_are_used(recite: Callable) -> None:
    engine = recite(ids("abc"), max_step_tokens=8)
    rows: list[int] = []
    script = engine.decoder
    engine.decoder = lambda batch: (rows.append(len(batch.logit_rows)), script(batch))[1]  # type: ignore[assignment]
    engine.decoder.spec, engine.decoder.device = script.spec, script.device  # type: ignore[union-attr]
    engine.decoder.choose_tokens = script.choose_tokens  # type: ignore[method-assign]
    one(engine, tuple([0] * 20), max_tokens=3)
    assert rows == [0, 0, 1, 1, 1]


def test_too_large_a_cache_is_an_option_error(tiny_decoder: Callable, tokenizer: object) -> None:
    with pytest.raises(OptionError):
        Engine(tiny_decoder(), tokenizer, EngineOptions(cache_tokens=2**50))


def test_requests_travel() -> None:
    request = Request("r", [1, 2], greedy(stop=("x",)), "adapter")  # type: ignore[arg-type]
    again = pickle.loads(pickle.dumps(request))
    assert (again.id, again.prompt_ids, again.params, again.adapter) == ("r", (1, 2), request.params, "adapter")


@pytest.mark.parametrize(("kernels", "threads", "grads"), [("reference", 2, False), ("float32", 1, True)])
def test_what_a_step_runs_in(
    make_model: Callable, tokenizer: object, monkeypatch: pytest.MonkeyPatch, kernels: str, threads: int, grads: bool
) -> None:
    """PyTorch's threads would spin on the processors that those of the C++ kernels need."""
    decoder = make_model(kernels)
    seen = []

    def choose(*args: object) -> list[int]:
        seen.append((torch.get_num_threads(), not torch.is_inference_mode_enabled()))
        return type(decoder).choose_tokens(decoder, *args)

    monkeypatch.setattr(decoder, "choose_tokens", choose)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        one(Engine(decoder, tokenizer), (1, 2), max_tokens=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {(threads, grads)}
