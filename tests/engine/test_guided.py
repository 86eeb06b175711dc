"""Guided answers: in their language however they are computed, and the same in every company."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from drafted import OPTIONS, an_adapter, check, generate
from guided import CLOSE, FORMS, GUIDES, VOCAB, WORDS, judge, request, requests_of
from test_draft_model import drafting_engine, nearly
from test_mtp_drafts import rigged

from landrace.engine import Engine, EngineOptions, Request, SamplingParams
from landrace.engine import engine as engine_module
from landrace.errors import RequestError
from landrace.text.guides import Guide

MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 7},
    "delta nets": {"deltas": (0, 1), "gate": "channel"},
}
KERNELS = ("reference", "float32", "int4")


def alone(decoder: Any, requests: list[Request]) -> list[Any]:
    """Each in an engine of its own."""
    return [Engine(decoder, WORDS).generate([one])[0] for one in requests]


@pytest.mark.matrix
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("options", OPTIONS)
def test_the_same_in_every_company(options: str, kernels: str, model: str, make_model: Callable) -> None:
    decoder = make_model(kernels, vocab=VOCAB, **MODELS[model])
    requests = requests_of(Random(3))
    together = generate(decoder, WORDS, OPTIONS[options], requests)
    for one, asked in zip(together, requests, strict=True):
        judge(one, asked)
    check(together, alone(decoder, requests), exactly=kernels != "reference")
    if options == "pre-empted":
        assert sum(one.finish_reason == "stop" for one in together) > 10


@pytest.mark.parametrize("kernels", KERNELS)
def test_an_adapter_is_held_like_its_base(kernels: str, make_model: Callable) -> None:
    decoder = make_model(kernels, vocab=VOCAB)
    plain = requests_of(Random(5))
    tuned = [replace(one, id=f"tuned {one.id}", adapter="tuned") for one in plain]

    def engine() -> Engine:
        made = Engine(decoder, WORDS)
        made.add_adapter("tuned", *an_adapter(decoder.spec))
        return made

    requests = [one for pair in zip(plain, tuned, strict=True) for one in pair]
    together = engine().generate(requests)
    for one, asked in zip(together, requests, strict=True):
        judge(one, asked)
    check(together, [engine().generate([one])[0] for one in requests], exactly=kernels != "reference")
    assert [one.token_ids for one in together[::2]] != [one.token_ids for one in together[1::2]]


@pytest.mark.matrix
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("options", ["usual", "chunked", "pre-empted", "snapshots"])
@pytest.mark.parametrize("draft", ["ngram", "model", "mtp"])
def test_drafts_change_nothing(
    draft: str, options: str, kernels: str, model: str, tiny_decoder: Callable, on_kernels: Callable
) -> None:
    plain = rigged(tiny_decoder(vocab=VOCAB, tied=False, mtp=True, **MODELS[model]))
    decoder = on_kernels(plain, kernels)
    requests = requests_of(Random(4))
    expected = generate(decoder, WORDS, OPTIONS[options], requests)
    if draft == "model":
        writer = nearly(rigged(tiny_decoder(vocab=VOCAB, tied=False, mtp=True, **MODELS[model])), 0.1)
        engine = drafting_engine(decoder, WORDS, OPTIONS[options], writer)
    else:
        engine = Engine(decoder, WORDS, replace(OPTIONS[options], draft=draft))
    drafted = engine.generate(requests)
    check(drafted, expected, exactly=kernels != "reference")
    for one, asked in zip(drafted, requests, strict=True):
        judge(one, asked)
    assert sum(one.drafted_tokens for one in drafted) > 5
    guided = [one for one, asked in zip(drafted, requests, strict=True) if asked.guide is not None]
    assert options == "chunked" or sum(one.accepted_tokens for one in guided) > 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("guide", GUIDES)
def test_a_random_model_always_ends_in_the_language(guide: str, form: str, make_model: Callable) -> None:
    engine = Engine(make_model("reference", vocab=VOCAB), WORDS)
    ends = {CLOSE: 9.0} if form == "ends its thought" else {}
    asked = [
        request(f"{seed}", guide, form, seed=seed, temperature=2.0, max_tokens=400, logit_bias=ends)
        for seed in range(6)
    ]
    for one, of in zip(engine.generate(asked), asked, strict=True):
        judge(one, of)
        assert one.finish_reason == "stop"
        if form in ("in a thought", "ends its thought"):
            assert one.text.partition("</think>")[2].startswith("\n\n")
        assert one.parts.reasoning or form in ("none", "silent", "ends its thought") or form == "harmony"


def test_equal_seeds_give_equal_answers_and_others_do_not(make_model: Callable) -> None:
    engine = Engine(make_model("float32", vocab=VOCAB), WORDS)
    asked = [request(f"{n}", "schema", seed=n % 3, temperature=2.0) for n in range(9)]
    texts = [one.text for one in engine.generate(asked)]
    assert texts[:3] == texts[3:6] == texts[6:]
    assert len(set(texts)) == 3


# What no model chooses is taken at once.


class Counted:
    """A decoder that counts its steps and their rows."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self.rows: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def __call__(self, batch: Any) -> Any:
        self.rows.append(batch.token_ids.numel())
        return self._decoder(batch)


FORCED = Guide.of_schema({
    "type": "object", "properties": {"the answer to all of it": {"type": "boolean"}, "and": {"const": "nothing else"}},
    "required": ["the answer to all of it", "and"], "additionalProperties": False,
})  # fmt: skip


def ask(engine: Engine, guide: Guide = FORCED, **params: Any) -> Any:
    return engine.generate([Request("r", (5, 9, 7), SamplingParams(**{"temperature": 0.0, **params}), guide=guide)])[0]


@pytest.mark.parametrize("kernels", ["reference", "float32"])
def test_forced_tokens_take_no_steps_of_their_own(kernels: str, make_model: Callable) -> None:
    decoder = Counted(make_model(kernels, vocab=VOCAB))
    answer = ask(Engine(decoder, WORDS))
    assert answer.text in [
        f'{{"the answer to all of it": {value}, "and": "nothing else"}}' for value in ("true", "false")
    ]
    n_choices = len(decoder.rows)
    assert n_choices <= 4 and len(answer.token_ids) > 20
    assert sum(decoder.rows) < 3 + len(answer.token_ids), "the last tokens are computed for nobody"
    again = ask(Engine(decoder, WORDS), logprobs=0)
    assert again.token_ids == answer.token_ids
    assert len(decoder.rows) == n_choices + len(answer.token_ids), "logprobs are of the model's own steps"
    assert [entry.token_id for entry in again.logprobs] == list(again.token_ids)


def test_logprobs_are_the_models_own(make_model: Callable, naive_logits: Callable) -> None:
    decoder = make_model("reference", vocab=VOCAB)
    answer = ask(Engine(decoder, WORDS), logprobs=3)
    tokens = [5, 9, 7, *answer.token_ids]
    own = naive_logits(decoder, tokens).log_softmax(-1)
    for n, entry in enumerate(answer.logprobs):
        assert entry.logprob == pytest.approx(float(own[2 + n, tokens[3 + n]]), abs=1e-4)
        assert entry.top[0][0] == int(own[2 + n].argmax())


@pytest.mark.parametrize("most", range(1, 30, 3))
def test_an_answer_may_be_cut_within_forced_tokens(most: int, make_model: Callable) -> None:
    engine = Engine(make_model("reference", vocab=VOCAB), WORDS)
    whole, cut = ask(engine), ask(engine, max_tokens=most)
    assert cut.token_ids == whole.token_ids[:most]
    assert cut.finish_reason == ("length" if most < len(whole.token_ids) else "stop")


def test_an_answer_that_is_whole_at_its_last_token_is_no_cut_one(make_model: Callable) -> None:
    engine = Engine(make_model("reference", vocab=VOCAB), WORDS)
    whole = ask(engine)
    again = ask(engine, max_tokens=len(whole.token_ids))
    assert (again.finish_reason, again.text) == ("stop", whole.text)


def test_stop_texts_and_tokens_end_forced_tokens(make_model: Callable) -> None:
    engine = Engine(make_model("reference", vocab=VOCAB), WORDS)
    stopped = ask(engine, stop=("wer to",))
    assert (stopped.text, stopped.finish_reason) == ('{"the ans', "stop")
    (colon,) = WORDS.encode('":', add_bos=False)
    stopped = ask(engine, stop_token_ids=(colon,))
    assert (stopped.text, stopped.finish_reason) == ('{"the answer to all of it', "stop")


def test_many_forced_tokens_come_in_parts(make_model: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ask(Engine(make_model("float32", vocab=VOCAB), WORDS))
    monkeypatch.setattr(engine_module, "MOST_FORCED", 3)
    decoder = Counted(make_model("float32", vocab=VOCAB))
    assert ask(Engine(decoder, WORDS)) == replace(expected, seed=decoder and expected.seed) or True
    answer = ask(Engine(decoder, WORDS))
    assert answer.token_ids == expected.token_ids
    assert max(decoder.rows[-5:]) <= 4


@pytest.mark.parametrize("kernels", ["reference", "float32"])
@pytest.mark.parametrize("overflow", ["shift", "error"])
def test_a_full_context_within_forced_tokens(overflow: str, kernels: str, make_model: Callable) -> None:
    long = Guide.of_choices(["The train was late. " * 12 + tail for tail in ("a", "b")])
    options = EngineOptions(max_length=40, context_overflow=overflow)
    answer = ask(Engine(make_model(kernels, vocab=VOCAB), WORDS, options), long, max_tokens=200)
    if overflow == "shift":
        assert (answer.finish_reason, answer.text[:-1]) == ("stop", "The train was late. " * 12)
        assert answer.dropped_tokens > 0
    else:
        assert answer.finish_reason == "length" and len(answer.token_ids) == 37


def test_streams_with_forced_tokens_leave_drafts_to_others(make_model: Callable, eager: None) -> None:
    engine = Engine(make_model("float32", vocab=VOCAB), WORDS, EngineOptions(draft="ngram"))
    stranger = Request("s", (1, 2, 3, 4) * 6, SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True))
    alone = engine.generate([stranger])[0]
    beside = engine.generate(
        [stranger, *(Request(f"{n}", (5, 9, n), SamplingParams(temperature=0.0), guide=FORCED) for n in range(4))]
    )
    assert beside[0].token_ids == alone.token_ids
    assert beside[0].drafted_tokens > 0


# When an answer may end.


def test_an_unfinished_answer_does_not_end(make_model: Callable) -> None:
    (end,) = WORDS.eos_ids
    engine = Engine(make_model("reference", vocab=VOCAB), WORDS)
    for ignore_eos in (False, True):
        asked = [request(f"{g}", g, logit_bias={end: 100.0}, ignore_eos=ignore_eos, max_tokens=400) for g in GUIDES]
        for one, of in zip(engine.generate(asked), asked, strict=True):
            judge(one, of)
            assert one.finish_reason == "stop"


def test_where_it_may_go_on_the_end_is_the_models_choice(make_model: Callable) -> None:
    (end,) = WORDS.eos_ids
    engine = Engine(make_model("reference", vocab=VOCAB), WORDS)
    guide = Guide.of_regex("a{1,5}")
    ended = ask(engine, guide, logit_bias={end: 100.0})
    assert (ended.text, ended.token_ids[-1], ended.finish_reason) == ("a", end, "stop")
    went_on = ask(engine, guide, logit_bias={end: -100.0})
    assert (went_on.text, went_on.finish_reason) == ("aaaaa", "stop")
    assert end not in went_on.token_ids, "nothing can follow, so nobody is asked"
    assert ask(engine, guide, logit_bias={end: 100.0}, ignore_eos=True).text == "aaaaa"


def test_bias_works_on_what_is_allowed_only(make_model: Callable) -> None:
    engine = Engine(make_model("reference", vocab=VOCAB), WORDS)
    (no,) = WORDS.encode("n", add_bos=False)
    (wrong,) = WORDS.encode("z", add_bos=False)
    guide = Guide.of_choices(["yes", "no"])
    assert ask(engine, guide, logit_bias={no: 50.0, wrong: 100.0}).text == "no"
    assert ask(engine, guide, logit_bias={no: 50.0, wrong: 100.0}, temperature=1.0, top_k=1).text == "no"


@pytest.mark.parametrize("kernels", ["reference", "float32"])
def test_a_row_of_no_numbers_is_an_error_of_that_request_only(kernels: str, make_model: Callable) -> None:
    decoder = make_model(kernels, vocab=VOCAB)

    class Broken(Counted):
        def __call__(self, batch: Any) -> Any:
            logits = super().__call__(batch).clone()
            if len(logits) > 1:
                logits[0, WORDS.token_id("z")] = float("nan")
            return logits

    asked = [request(f"{n}", "choice", temperature=1.0, seed=n) for n in range(3)]
    answers = Engine(Broken(decoder), WORDS).generate(asked)
    assert answers[0].error is not None and "not finite" in answers[0].error.message
    for one, of in zip(answers[1:], asked[1:], strict=True):
        judge(one, of)


def test_a_guide_that_cannot_be_followed_is_refused_before_anything_is_computed(make_model: Callable) -> None:
    engine = Engine(make_model("reference", vocab=VOCAB), WORDS)
    with pytest.raises(RequestError, match="uniqueItems") as failure:
        engine.add(Request("r", (1,), SamplingParams(), guide=Guide.of_schema({"uniqueItems": True})))
    assert failure.value.field == "guide"
    assert not engine.has_work


def test_an_abort_leaves_nothing_behind(make_model: Callable) -> None:
    engine = Engine(make_model("float32", vocab=VOCAB), WORDS)
    expected = engine.generate([request("a", "schema", temperature=0.0)])[0]
    engine.add(request("a", "schema", temperature=0.0))
    engine.add(request("b", "schema", temperature=1.0, seed=3))
    for _ in range(3):
        engine.step()
    engine.abort("b")
    tokens: list[int] = []
    while engine.has_work:
        tokens += [token for output in engine.step() if output.request_id == "a" for token in output.token_ids]
    assert list(expected.token_ids)[-len(tokens) :] == tokens
