"""What goes wrong with one request, or changes under the engine, touches no other answer."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from recital import check_all_free, greedy, one

from landrace.engine import Completion, Engine, EngineOptions, Request
from landrace.errors import OptionError
from landrace.models.batch import ForwardBatch
from landrace.models.declared import shapes_of
from landrace.models.lora_spec import LoraSpec


def poison(spec_decoder: object) -> tuple[LoraSpec, dict[str, torch.Tensor]]:
    spec = LoraSpec(rank=1, alpha=1.0, targets=("v_proj",))
    tensors = {}
    for name, shape in shapes_of(spec_decoder.spec).items():  # type: ignore[attr-defined]
        if name.endswith("v_proj.weight"):
            path = name.removesuffix(".weight")
            tensors[f"{path}.lora_A"] = torch.ones(1, shape[1])
            tensors[f"{path}.lora_B"] = torch.full((shape[0], 1), math.nan)
    return spec, tensors


@pytest.mark.parametrize("poisoned_first", [True, False])
def test_nan_logits_end_one_request(tiny_decoder: Callable, tokenizer: object, poisoned_first: bool) -> None:
    requests = [Request(f"r{n}", tuple(range(n, 2 * n)), greedy(ignore_eos=True)) for n in (19, 20, 3)]
    expected = [Engine(tiny_decoder(), tokenizer).generate([request])[0].token_ids for request in requests]
    engine = Engine(tiny_decoder(), tokenizer)
    engine.add_adapter("poison", *poison(tiny_decoder()))
    poisoned = Request("p", tuple(range(30)), greedy(), "poison")
    *results, bad = sorted(
        engine.generate([poisoned, *requests] if poisoned_first else [*requests, poisoned]),
        key=lambda result: result.request_id == "p",
    )
    assert bad.finish_reason == "error" and bad.error is not None and "finite" in bad.error.message
    assert [result.token_ids for result in results] == expected
    assert engine.generate([poisoned])[0].cached_prompt_tokens == 0, "nothing of it is shared"


def test_blocks_published_before_the_nan_showed_are_taken_back(tiny_decoder: Callable, tokenizer: object) -> None:
    engine = Engine(tiny_decoder(), tokenizer, EngineOptions(max_step_tokens=16))
    engine.add_adapter("poison", *poison(tiny_decoder()))
    poisoned = Request("p", tuple(range(40)), greedy(), "poison")
    for _ in range(2):
        result = engine.generate([poisoned])[0]
        assert (result.finish_reason, result.cached_prompt_tokens) == ("error", 0)


def test_a_step_that_cannot_be_computed_ends_its_requests_only(tiny_decoder: Callable, tokenizer: object) -> None:
    engine = Engine(tiny_decoder(), tokenizer, EngineOptions(max_running=2))
    decoder, calls = engine.decoder, []

    def failing(batch: ForwardBatch) -> torch.Tensor:
        calls.append(batch)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return decoder(batch)

    engine.decoder = failing  # type: ignore[assignment]
    failing.spec, failing.device = decoder.spec, decoder.device  # type: ignore[attr-defined]
    failing.choose_tokens = decoder.choose_tokens  # type: ignore[attr-defined]
    results = engine.generate([Request(f"r{n}", (n, 4), greedy(max_tokens=6, ignore_eos=True)) for n in range(4)])
    assert [result.finish_reason for result in results] == ["error", "error", "length", "length"]
    assert "out of memory" in results[0].error.message
    assert (
        results[3].token_ids == one(Engine(tiny_decoder(), tokenizer), (3, 4), max_tokens=6, ignore_eos=True).token_ids
    )
    check_all_free(engine)


def test_adapters_come_and_go_and_share_no_cache(tiny_decoder: Callable, tokenizer: object) -> None:
    def make(fill: float) -> tuple[LoraSpec, dict[str, torch.Tensor]]:
        spec, tensors = poison(tiny_decoder())
        return spec, {name: torch.full_like(tensor, fill) for name, tensor in tensors.items()}

    engine = Engine(tiny_decoder(), tokenizer)
    prompt = tuple(range(40))
    base = one(engine, prompt, ignore_eos=True)
    results = {}
    for fill in (0.3, -0.4):
        engine.add_adapter("tuned", *make(fill))
        with pytest.raises(OptionError):
            engine.add_adapter("tuned", *make(fill))
        results[fill] = [engine.generate([Request("r", prompt, greedy(ignore_eos=True), "tuned")])[0] for _ in range(2)]
        engine.remove_adapter("tuned")
    assert [result.cached_prompt_tokens for pair in results.values() for result in pair] == [0, 32, 0, 32]
    assert results[0.3][0].token_ids != results[-0.4][0].token_ids != base.token_ids
    for pair in results.values():
        assert pair[0].token_ids == pair[1].token_ids
    assert one(engine, prompt, ignore_eos=True).token_ids == base.token_ids
    with pytest.raises(OptionError):
        engine.remove_adapter("tuned")


def test_an_adapter_in_use_stays(tiny_decoder: Callable, tokenizer: object) -> None:
    engine = Engine(tiny_decoder(), tokenizer)
    spec, tensors = poison(tiny_decoder())
    engine.add_adapter("tuned", spec, {name: torch.zeros_like(tensor) for name, tensor in tensors.items()})
    engine.add(Request("r", (1, 2), greedy(), "tuned"))
    with pytest.raises(OptionError):
        engine.remove_adapter("tuned")


def nudge(decoder: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(1.05)


def test_new_weights_never_meet_an_old_cache(tiny_decoder: Callable, tokenizer: object) -> None:
    scoring = Request("r", tuple(range(3, 60)), greedy(max_tokens=1, logprobs=1))
    engine = Engine(tiny_decoder(window=9), tokenizer)
    before = engine.generate([scoring])[0]
    nudge(engine.decoder)  # type: ignore[arg-type]
    engine.weights_changed()
    changed = tiny_decoder(window=9)
    nudge(changed)
    ours, expected = (e.generate([scoring])[0] for e in (engine, Engine(changed, tokenizer)))
    assert ours.cached_prompt_tokens == 0 and ours.logprobs == expected.logprobs != before.logprobs
    assert engine.generate([scoring])[0].cached_prompt_tokens == 48


def test_what_runs_while_weights_change_ends_and_what_waits_is_computed_anew(
    tiny_decoder: Callable, tokenizer: object
) -> None:
    engine = Engine(tiny_decoder(), tokenizer, EngineOptions(max_running=2, max_step_tokens=16))
    waiting = Request("waits", tuple(range(20)), greedy(ignore_eos=True))
    for request in (*(Request(name, (index, 2), greedy()) for index, name in enumerate("ab")), waiting):
        engine.add(request)
    engine.step()
    nudge(engine.decoder)  # type: ignore[arg-type]
    engine.weights_changed()
    outputs = engine.step()
    assert [(o.request_id, o.finish_reason) for o in outputs[:2]] == [("a", "error"), ("b", "error")]
    assert all(output.error and "weights changed" in output.error.message for output in outputs[:2])
    outputs = outputs[2:]
    while engine.has_work:
        outputs += engine.step()
    changed = tiny_decoder()
    nudge(changed)
    expected = Engine(changed, tokenizer).generate([waiting])[0]
    assert Completion.of(waiting, outputs).token_ids == expected.token_ids
    check_all_free(engine)
