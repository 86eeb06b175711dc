"""Sequences that are too long: refused and ended, or gone on with from their first tokens and their newer half."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from recital import check_all_free, greedy

from landrace.engine import Engine, EngineOptions, Request, SamplingParams
from landrace.engine.draws import uniform
from landrace.engine.overflow import without_the_oldest
from landrace.errors import OptionError, PromptTooLongError
from landrace.models.batch import ForwardBatch

LONGEST, KEEP = 40, 3
SHIFT = EngineOptions(max_length=LONGEST, context_overflow="shift", context_keep=KEEP)


def test_what_is_left() -> None:
    assert without_the_oldest(range(10), 2, 9) == [0, 1, 6, 7, 8, 9]
    assert without_the_oldest(range(10), 2, 10) == list(range(10))
    assert without_the_oldest(range(11), 2, 9) == [0, 1, 7, 8, 9, 10]
    assert without_the_oldest(range(100), 2, 9) == [0, 1, 94, 95, 96, 97, 98, 99]
    assert without_the_oldest(range(5), 2, 2) == [0, 1]


def written_out(decoder: Any, prompt: Sequence[int], n: int, choose: Callable[[torch.Tensor, int], int]) -> list[int]:
    """The answer by the definition: each token of a fresh run over what is left of the sequence."""
    tokens, answer = list(prompt), []
    for index in range(n):
        if len(tokens) >= LONGEST:
            tokens = without_the_oldest(tokens, KEEP, LONGEST - 1)
        with torch.inference_mode():
            answer.append(choose(decoder(ForwardBatch.packed([tokens]))[-1], index))
        tokens.append(answer[-1])
    return answer


def likeliest(logits: torch.Tensor, index: int) -> int:
    return int(logits.argmax())


def drawn(seed: int) -> Callable[[torch.Tensor, int], int]:
    def choose(logits: torch.Tensor, index: int) -> int:
        order = logits.double().softmax(-1).cumsum(-1)
        return int((order < uniform(seed, index) * order[-1]).sum())

    return choose


PROMPTS = [tuple((7 * i + n) % 60 for i in range(n)) for n in (1, 17, 39, 40, 200)]
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 7},
    "delta nets": {"deltas": (0, 1), "gate": "channel"},
    "latents": {"latents": {}},
}
RUNGS = {
    "alone": replace(SHIFT, max_running=1, prefix_cache=False),
    "batched": SHIFT,
    "chunked": replace(SHIFT, max_step_tokens=7),
    "pre-empted": replace(SHIFT, cache_tokens=64, max_running=3),
    "drafted": replace(SHIFT, draft="ngram"),
}


@pytest.mark.matrix
@pytest.mark.parametrize("kernels", ["reference", "float32"])
@pytest.mark.parametrize("name", MODELS)
def test_every_token_is_that_of_a_fresh_run(
    make_model: Callable, tokenizer: object, free_rows: None, name: str, kernels: str
) -> None:
    """Greedy and drawn; alone, among others, cut, pre-empted and drafted; three times over the length."""
    decoder = make_model(kernels, **MODELS[name])
    params = [greedy(max_tokens=70, ignore_eos=True), SamplingParams(max_tokens=70, seed=5, ignore_eos=True)]
    requests = [Request(f"{n}-{len(p)}", p, params[n]) for n in (0, 1) for p in PROMPTS]
    expected = [written_out(decoder, p, 70, choose) for choose in (likeliest, drawn(5)) for p in PROMPTS]
    for rung, options in RUNGS.items():
        engine = Engine(decoder, tokenizer, options)
        completions = engine.generate(requests)
        assert [list(one.token_ids) for one in completions] == expected, rung
        assert all(one.finish_reason == "length" and one.dropped_tokens > 0 for one in completions)
        assert [one.prompt_tokens for one in completions] == [len(p) for p in PROMPTS] * 2
        check_all_free(engine)


def test_dropped_tokens_are_counted(tiny_decoder: Callable, tokenizer: object) -> None:
    engine = Engine(tiny_decoder(), tokenizer, SHIFT)
    short, long = engine.generate(
        [Request(str(n), tuple([1] * n), greedy(max_tokens=4, ignore_eos=True)) for n in (20, 60)]
    )
    assert short.dropped_tokens == 0
    assert long.dropped_tokens == 60 - len(without_the_oldest(range(60), KEEP, LONGEST - 1))


def test_by_default_it_is_an_error(tiny_decoder: Callable, tokenizer: object) -> None:
    engine = Engine(tiny_decoder(), tokenizer, EngineOptions(max_length=LONGEST))
    with pytest.raises(PromptTooLongError):
        engine.add(Request("r", tuple([1] * LONGEST), greedy()))
    (completion,) = engine.generate([Request("r", (1, 2), greedy(max_tokens=100, ignore_eos=True))])
    assert (len(completion.token_ids), completion.finish_reason) == (LONGEST - 2, "length")
    assert completion.dropped_tokens == 0


def test_a_prompt_whose_tokens_are_scored_is_not_cut(tiny_decoder: Callable, tokenizer: object) -> None:
    engine = Engine(tiny_decoder(), tokenizer, SHIFT)
    with pytest.raises(PromptTooLongError):
        engine.add(Request("r", tuple([1] * LONGEST), greedy(prompt_logprobs_from=1)))


@pytest.mark.parametrize("options", [{"context_overflow": "rotate"}, {"context_keep": -1}, {"context_keep": True}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="context_"):
        EngineOptions(**options)


def test_more_than_half_cannot_be_kept(tiny_decoder: Callable, tokenizer: object) -> None:
    with pytest.raises(OptionError, match="context_keep"):
        Engine(tiny_decoder(), tokenizer, replace(SHIFT, context_keep=LONGEST // 2 + 1))
