"""With drafts an engine says what it says without, whatever is drafted: token by token, and to the bit on the C++
kernels. Drafts take nothing from anybody."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from drafted import CASES, KERNELS, MODELS, OPTIONS, Watched, an_adapter, check, generate, requests_of

from landrace.engine import Completion, Engine, EngineOptions, Request, SamplingParams, StepOutput
from landrace.engine import answers as answers_module
from landrace.engine import live as live_module
from landrace.engine import sampler as sampler_module
from landrace.engine.drafter import Drafter
from landrace.engine.sampler import SamplingState
from landrace.engine.scheduler import Scheduler
from landrace.engine.step_times import StepTimes
from landrace.models.batch import ForwardBatch

pytestmark = pytest.mark.usefixtures("free_rows")


class Knowing(Drafter):
    """Drafts what an answer will say, up to a guess that is wrong on purpose, and some more behind it."""

    answers: Sequence[Sequence[int]] = ()
    """Whole sequences, prompts and answers."""
    wrong = 0.2
    """How often a guess is."""

    def draft(self, room: int, rows: int, expected: float, times: StepTimes) -> tuple[list[int], float]:
        known = list(self._tokens)
        random = Random(len(known) + known[-1])
        text = next((text for text in self.answers if list(text[: len(known)]) == known), ())
        guesses = [*text[len(known) :], *(random.randrange(60) for _ in range(room))][: max(0, room)]
        return [(token + 1) % 60 if random.random() < self.wrong else token for token in guesses], 0.0


def with_knowledge(
    monkeypatch: pytest.MonkeyPatch, requests: Sequence[Request], plain: Sequence[Completion], wrong: float
) -> None:
    """From now on engines draft what these answers say."""
    texts = [(*request.prompt_ids, *one.token_ids) for request, one in zip(requests, plain, strict=True)]
    monkeypatch.setattr(Knowing, "answers", texts)
    monkeypatch.setattr(Knowing, "wrong", wrong)
    monkeypatch.setattr(live_module, "Drafter", Knowing)


@pytest.mark.matrix
@pytest.mark.parametrize(("kernels", "options", "model"), CASES)
def test_the_same_with_drafts_as_without(
    kernels: str, options: str, model: str, make_model: Callable, tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = [*OPTIONS].index(options)
    decoder = make_model(kernels, seed=seed, **MODELS[model])
    requests = requests_of(Random(seed))
    plain = generate(decoder, tokenizer, OPTIONS[options], requests)
    drafts = replace(OPTIONS[options], draft="ngram")
    drafted = generate(decoder, tokenizer, drafts, requests)
    check(drafted, plain, exactly=kernels != "reference")
    assert sum(one.drafted_tokens for one in drafted) > 0
    for wrong in (0.2, 1.0):
        with_knowledge(monkeypatch, requests, plain, wrong)
        drafted = generate(decoder, tokenizer, drafts, requests)
        check(drafted, plain, exactly=kernels != "reference")
        n_accepted = sum(one.accepted_tokens for one in drafted)
        assert sum(one.drafted_tokens for one in drafted) > 20
        assert n_accepted == 0 if wrong == 1 else n_accepted > 20


def test_answers_of_one_prompt_with_seeds_of_their_own(
    make_model: Callable, tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = make_model("reference")
    params = [SamplingParams(max_tokens=40, temperature=0.9, seed=seed, ignore_eos=True) for seed in range(6)]
    requests = [Request(f"n{n}", (1, 2, 3) * 6, one) for n, one in enumerate(params)]
    plain = generate(decoder, tokenizer, EngineOptions(), requests)
    assert len({one.token_ids for one in plain}) == 6
    with_knowledge(monkeypatch, requests, plain, 0.1)
    drafted = generate(decoder, tokenizer, EngineOptions(draft="ngram"), requests)
    check(drafted, plain, exactly=False)
    assert sum(one.accepted_tokens for one in drafted) > 100


@pytest.mark.parametrize("kernels", KERNELS)
def test_adapters(kernels: str, make_model: Callable, tokenizer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = make_model(kernels)
    params = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True, logprobs=1)
    requests = [Request(f"r{n}", (4, 9, n) * 4, params, (None, "tuned")[n % 2]) for n in range(4)]
    engines = [Engine(decoder, tokenizer, EngineOptions(draft=draft)) for draft in (None, "ngram")]  # type: ignore[arg-type]
    results = []
    for engine in engines:
        engine.add_adapter("tuned", *an_adapter(decoder.spec))
        results.append(engine.generate(requests))
        with_knowledge(monkeypatch, requests, results[0], 0.2)
    check(results[1], results[0], exactly=kernels != "reference")
    assert all(one.accepted_tokens > 5 for one in results[1])


@pytest.mark.parametrize("model", MODELS)
def test_what_was_drafted_can_be_shared(
    model: str, make_model: Callable, tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that drafts filled, rejected guesses among them, hold the right keys and values, and snapshots the right
    states."""
    decoder = make_model("int4", **MODELS[model])
    first = Request("first", (7, 8, 9) * 5, SamplingParams(max_tokens=90, temperature=0.0, ignore_eos=True))
    plain = generate(decoder, tokenizer, EngineOptions(), [first])
    second = Request("second", (*first.prompt_ids, *plain[0].token_ids, 5), replace(first.params, logprobs=3))
    expected = generate(decoder, tokenizer, EngineOptions(prefix_cache=False), [second])
    with_knowledge(monkeypatch, [first], plain, 0.3)
    engine = Engine(decoder, tokenizer, EngineOptions(draft="ngram", snapshot_tokens=16))
    check(engine.generate([first]), plain, exactly=True)
    again = engine.generate([second])
    assert again[0].cached_prompt_tokens == 96
    check(again, expected, exactly=True)


@pytest.mark.parametrize("options", OPTIONS)
def test_drafts_take_nothing_from_anybody(
    options: str, make_model: Callable, tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more tokens in a step than it may have, no block that is not needed anyway, nothing beside prompts."""
    decoder = make_model("reference", window=7)
    requests = requests_of(Random(8))
    plain = generate(decoder, tokenizer, OPTIONS[options], requests)
    with_knowledge(monkeypatch, requests, plain, 0.2)
    n_drafted = 0

    def look(batch: ForwardBatch) -> None:
        nonlocal n_drafted
        assert len(batch.token_ids) <= OPTIONS[options].max_step_tokens
        work = [live.progress for live in engine._live.values() if live.progress.scheduled > 0]
        drafts = [progress.draft for progress in work if progress.draft]
        assert len(batch.token_ids) == sum(progress.scheduled + len(progress.draft) for progress in work)
        assert not drafts or all(progress.left == 1 for progress in work)
        n_drafted += sum(map(len, drafts))
        for progress in work:
            room = min(progress.request.params.max_tokens - progress.n_output, engine.max_length - progress.held)
            assert len(progress.draft) < max(1, room)
            for table in progress.tables:
                if progress.left == 1:
                    assert table.end == -(-progress.held // OPTIONS[options].block_size)

    engine = Engine(decoder, tokenizer, replace(OPTIONS[options], draft="ngram"))
    engine.decoder = Watched(decoder, look)  # type: ignore[assignment]
    check(engine.generate(requests), plain, exactly=False)
    assert n_drafted > 50


def test_a_newcomer_waits_for_no_draft(make_model: Callable, tokenizer: object) -> None:
    """The step after it arrives computes its prompt, and no guesses beside it."""
    rows: list[int] = []
    decoder = make_model("reference")
    engine = Engine(decoder, tokenizer, EngineOptions(draft="ngram"))
    engine.decoder = Watched(decoder, lambda batch: rows.append(len(batch.token_ids)))  # type: ignore[assignment]
    params = SamplingParams(max_tokens=60, temperature=0.0, ignore_eos=True, logit_bias={5: 100.0})
    engine.add(Request("stream", (5,) * 6, params))
    for _ in range(3):
        engine.step()
    assert max(rows[1:]) > 2, "the stream drafts"
    engine.add(Request("newcomer", (1, 2, 3, 4), params))
    engine.step()
    assert rows[-1] == 5


def test_an_answer_ends_where_it_ends_without(
    make_model: Callable, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends it in the middle of a draft: nothing of the rest shows, nor counts."""
    decoder = make_model("reference")
    start = Request("r", (4, 9, 11) * 5, SamplingParams(max_tokens=60, temperature=0.0, ignore_eos=True, logprobs=0))
    whole = generate(decoder, tokenizer, EngineOptions(), [start])[0]
    kinds: list[dict[str, Any]] = [{"max_tokens": n} for n in range(1, 34)]
    kinds += [{"stop_token_ids": (token,)} for token in set(whole.token_ids)]
    kinds += [{"stop": (whole.text[at : at + 3],)} for at in range(0, len(whole.text) - 3, 3)]
    requests = [replace(start, id=f"r{n}", params=replace(start.params, **kind)) for n, kind in enumerate(kinds)]
    plain = generate(decoder, tokenizer, EngineOptions(), requests)
    with_knowledge(monkeypatch, [start], [whole], 0.0)
    drafted = generate(decoder, tokenizer, EngineOptions(draft="ngram"), requests)
    check(drafted, plain, exactly=False)
    assert {one.finish_reason for one in drafted} == {"stop", "length"}
    fitting = Engine(decoder, tokenizer, EngineOptions(draft="ngram", max_length=40)).generate([start])[0]
    assert (len(fitting.token_ids), fitting.finish_reason) == (25, "length")
    assert fitting.token_ids == whole.token_ids[:25]


def test_one_step_tells_several_tokens(
    make_model: Callable, tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = make_model("reference")
    request = Request("r", (4, 9, 11) * 5, SamplingParams(max_tokens=50, temperature=0.0, ignore_eos=True, logprobs=1))
    plain = generate(decoder, tokenizer, EngineOptions(), [request])
    with_knowledge(monkeypatch, [request], plain, 0.0)
    outputs: list[StepOutput] = []
    Engine(decoder, tokenizer, EngineOptions(draft="ngram")).generate([request], outputs.append)
    assert len(outputs) < 8
    for output in outputs:
        assert [entry.token_id for entry in output.logprobs] == list(output.token_ids)
        assert output.accepted_tokens == output.drafted_tokens == len(output.token_ids) - 1
    assert "".join(output.text for output in outputs) == plain[0].text


class Broken(Watched):
    """Its logits at some positions are no numbers."""

    def __init__(self, decoder: Any, broken: Callable[[int, int], bool]) -> None:
        super().__init__(decoder, lambda batch: None)
        self._broken = broken

    def __call__(self, batch: ForwardBatch) -> torch.Tensor:
        logits = super().__call__(batch)
        assert batch.logit_rows is not None
        for index, row in enumerate(batch.logit_rows.tolist()):
            if self._broken(int(batch.positions[row]), int(batch.token_ids[row])):
                logits[index] = torch.nan
        return logits


def test_only_rows_that_count_can_fail(
    make_model: Callable, tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not finite behind a wrong guess is nobody's error; on the way it is one, after what comes before it."""
    decoder = make_model("reference")
    request = Request("r", (4, 9, 11) * 5, SamplingParams(max_tokens=50, temperature=0.0, ignore_eos=True, logprobs=1))
    plain = generate(decoder, tokenizer, EngineOptions(), [request])
    text = (*request.prompt_ids, *plain[0].token_ids)
    with_knowledge(monkeypatch, [request], plain, 0.3)

    def run(broken: Callable[[int, int], bool], draft: str | None) -> Completion:
        engine = Engine(decoder, tokenizer, EngineOptions(draft=draft))
        engine.decoder = Broken(decoder, broken)  # type: ignore[assignment]
        return engine.generate([request])[0]

    healthy = run(lambda position, token: token != text[position], "ngram")
    check([healthy], plain, exactly=False)
    assert healthy.drafted_tokens > healthy.accepted_tokens > 0
    for at in range(len(request.prompt_ids) - 1, len(text) - 1, 4):
        with_drafts, without = (run(lambda position, token, at=at: position == at, draft) for draft in ("ngram", None))
        assert with_drafts.token_ids == without.token_ids == text[len(request.prompt_ids) : at + 1]
        assert with_drafts.finish_reason == without.finish_reason == "error"
        assert with_drafts.error is not None and "finite" in with_drafts.error.message


def test_a_long_prompt_is_read_step_by_step(make_model: Callable, tokenizer: object) -> None:
    """One that is found whole in the cache is drafted for as soon as it has been read."""
    decoder = make_model("reference", max_length=4096)
    engine = Engine(decoder, tokenizer, EngineOptions(draft="ngram"))
    prompt = tuple(Random(1).randrange(60) for _ in range(3000))
    request = Request("r", prompt, SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True))
    engine.generate([request])
    outputs: list[StepOutput] = []
    engine.generate([request], outputs.append)
    assert outputs[0].cached_prompt_tokens > 2900
    assert outputs[0].drafted_tokens == outputs[1].drafted_tokens == 0
    assert any(output.drafted_tokens for output in outputs[2:])


def accept_all(chosen: Sequence[int], draft: Sequence[int]) -> tuple[int, ...]:
    return tuple(chosen)


def believe_the_draft(chosen: Sequence[int], draft: Sequence[int]) -> tuple[int, ...]:
    right = next((n for n, guess in enumerate(draft) if chosen[n] != guess), len(draft))
    return tuple(draft[:right]) or tuple(chosen[:1])


def keep_one_too_many(chosen: Sequence[int], draft: Sequence[int]) -> tuple[int, ...]:
    right = next((n for n, guess in enumerate(draft) if chosen[n] != guess), len(draft))
    return tuple(chosen[: right + 2])


def the_same_state(state: SamplingState, token: int) -> SamplingState:
    return state


def without_penalties(state: SamplingState, token: int) -> SamplingState:
    seen, state.seen = state.seen, None
    then = SamplingState.after_as_it_is(state, token)  # type: ignore[attr-defined]
    state.seen = then.seen = seen
    return then  # type: ignore[no-any-return]


def cached_too_far(scheduler: Scheduler, progress: Any, tokens: Sequence[int]) -> None:
    guesses = len(progress.draft)
    Scheduler.commit_as_it_is(scheduler, progress, tokens)  # type: ignore[attr-defined]
    if tokens and len(tokens) <= guesses and progress.held > len(tokens) + 1:
        progress.tokens[-1] = progress.tokens[-2]


MUTANTS: dict[str, tuple[object, str, Callable]] = {
    "accepts without comparing": (answers_module, "_kept", accept_all),
    "keeps one row behind a wrong guess": (answers_module, "_kept", keep_one_too_many),
    "every row draws the same number": (SamplingState, "after", the_same_state),
    "guesses do not count as said": (SamplingState, "after", without_penalties),
    "numbers begin one further on": (sampler_module, "uniform", lambda seed, index: uniform_of(seed, index + 1)),
    "the last token is not the one chosen": (Scheduler, "commit", cached_too_far),
}
uniform_of = sampler_module.uniform


@pytest.fixture(params=MUTANTS)
def mutant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    place, name, stand_in = MUTANTS[request.param]
    if isinstance(place, type):
        monkeypatch.setattr(place, f"{name}_as_it_is", getattr(place, name), raising=False)
    yield lambda: monkeypatch.setattr(place, name, stand_in)


def test_mutants_are_caught(
    mutant: Callable[[], None], make_model: Callable, tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = make_model("reference")
    requests = requests_of(Random(1))
    plain = generate(decoder, tokenizer, EngineOptions(), requests)
    with_knowledge(monkeypatch, requests, plain, 0.2)
    drafts = EngineOptions(draft="ngram")
    check(generate(decoder, tokenizer, drafts, requests), plain, exactly=False)
    mutant()
    with pytest.raises(AssertionError):
        check(generate(decoder, tokenizer, drafts, requests), plain, exactly=False)
