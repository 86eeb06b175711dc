"""What an engine says of its own work: whose time it was, and how it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from recital import greedy

from landrace.engine import Engine, EngineOptions, Request, StepOutput
from landrace.models.batch import ForwardBatch


def by_request(outputs: list[StepOutput]) -> dict[str, list[StepOutput]]:
    told: dict[str, list[StepOutput]] = {}
    for output in outputs:
        told.setdefault(output.request_id, []).append(output)
    return told


def run(engine: Engine) -> list[StepOutput]:
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    return outputs


@pytest.mark.parametrize("options", [EngineOptions(), EngineOptions(max_step_tokens=9, draft="ngram")])
def test_a_step_s_time_is_its_requests(tiny_decoder: Callable, tokenizer: Any, options: EngineOptions) -> None:
    engine = Engine(tiny_decoder(), tokenizer, options)
    for n in range(3, 9):
        engine.add(Request(f"r{n}", tuple(range(n)), greedy(max_tokens=n, ignore_eos=True)))
    told = by_request(run(engine))
    for outputs in told.values():
        spent = [output.machine_seconds for output in outputs]
        assert spent == sorted(spent) and spent[0] > 0
    facts = engine.facts
    assert sum(outputs[-1].machine_seconds for outputs in told.values()) == pytest.approx(facts.step_seconds)
    assert facts.generated_tokens == sum(range(3, 9)) and facts.prompt_tokens == sum(range(3, 9))


def test_it_is_shared_out_by_rows(tiny_decoder: Callable, tokenizer: Any) -> None:
    engine = Engine(tiny_decoder(), tokenizer)
    engine.add(Request("long", tuple(range(30)), greedy(max_tokens=1)))
    engine.add(Request("short", tuple(range(30, 40)), greedy(max_tokens=1)))
    told = {output.request_id: output.machine_seconds for output in engine.step()}
    assert told["long"] == pytest.approx(3 * told["short"])
    assert told["long"] + told["short"] == pytest.approx(engine.facts.step_seconds)


def test_whoever_ends_early_has_cost_what_it_has(tiny_decoder: Callable, tokenizer: Any) -> None:
    engine = Engine(tiny_decoder(), tokenizer, EngineOptions(max_step_tokens=16))
    engine.add(Request("gone", tuple(range(40)), greedy(max_tokens=9)))
    engine.add(Request("waits", (1, 2), greedy(max_tokens=1)))
    engine.step()
    engine.abort("gone")
    engine.add(Request("never", (1, 2, 3), greedy(max_tokens=9)))
    engine.abort("never")
    last = {output.request_id: output for output in run(engine)}
    assert last["gone"].machine_seconds > 0 and last["never"].machine_seconds == 0


def test_a_step_that_fails_is_paid_for(tiny_decoder: Callable, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(batch: ForwardBatch, with_hidden: bool) -> Any:
        raise RuntimeError("no")

    engine = Engine(tiny_decoder(), tokenizer)
    monkeypatch.setattr(engine, "_run", failing)
    engine.add(Request("r", (1, 2, 3), greedy(max_tokens=1)))
    (output,) = engine.step()
    assert output.finish_reason == "error" and output.machine_seconds == pytest.approx(engine.facts.step_seconds)


def test_a_shift_goes_on_with_the_same_account(tiny_decoder: Callable, tokenizer: Any) -> None:
    options = EngineOptions(max_length=24, context_overflow="shift")
    engine = Engine(tiny_decoder(), tokenizer, options)
    engine.add(Request("r", tuple(range(20)), greedy(max_tokens=40, ignore_eos=True)))
    outputs = run(engine)
    spent = [output.machine_seconds for output in outputs]
    assert outputs[-1].dropped_tokens > 0 and spent == sorted(spent)
    assert spent[-1] == pytest.approx(engine.facts.step_seconds)


def test_the_facts_are_those_of_now(tiny_decoder: Callable, tokenizer: Any) -> None:
    engine = Engine(tiny_decoder(window=8), tokenizer, EngineOptions(cache_tokens=64, max_running=2))
    for name in "abc":
        engine.add(Request(name, tuple(range(20)), greedy(max_tokens=4, ignore_eos=True)))
    engine.step()
    facts = engine.facts
    assert (facts.running, facts.waiting, facts.steps) == (1, 2, 1), "the others wait for its prefix"
    assert {group.kind for group in facts.cache} <= {"all", "window"}
    assert all(group.held > 0 and group.held + group.free == group.size for group in facts.cache)
    run(engine)
    facts = engine.facts
    assert (facts.running, facts.waiting) == (0, 0)
    assert all(group.held == 0 and 0 < group.reusable <= group.free for group in facts.cache)
    assert facts.reused_tokens == 32 and facts.prompt_tokens == 20 + 4 + 4
    assert facts.generated_tokens == 12 and facts.preemptions == 0


def test_what_is_computed_again_is_counted_again(tiny_decoder: Callable, tokenizer: Any) -> None:
    options = EngineOptions(block_size=4, cache_tokens=32, prefix_cache=False)
    engine = Engine(tiny_decoder(), tokenizer, options)
    for name in "ab":
        engine.add(Request(name, (1, 2, 3, 4), greedy(max_tokens=24, ignore_eos=True)))
    run(engine)
    facts = engine.facts
    assert facts.preemptions > 0 and facts.prompt_tokens == 4 * (2 + facts.preemptions)


def test_drafts_are_counted(tiny_decoder: Callable, tokenizer: Any) -> None:
    engine = Engine(tiny_decoder(), tokenizer, EngineOptions(draft="ngram"))
    engine.add(Request("r", (1, 2, 3) * 9, greedy(max_tokens=60, ignore_eos=True)))
    outputs = run(engine)
    facts = engine.facts
    assert facts.drafted_tokens == sum(output.drafted_tokens for output in outputs)
    assert facts.accepted_tokens == sum(output.accepted_tokens for output in outputs)
    assert facts.generated_tokens == 60
