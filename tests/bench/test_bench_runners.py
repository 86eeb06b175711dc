"""Every runner does the work its row says, and the peers run the model they are given."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from landrace.bench.floors import MatrixBytes, ModelCost, StepWork
from landrace.bench.fresh_process import measure_fresh
from landrace.bench.measure import Bench, measure_decode, measure_first_token, measure_prefill
from landrace.bench.ours import Ours
from landrace.bench.peers import RunnerChoice, choose_peer
from landrace.bench.runner import Runner
from landrace.bench.workload import DecodeRow, FirstTokenRow, PrefillRow, random_prompt
from landrace.checkpoints import open_checkpoint
from landrace.engine import Engine, Request, SamplingParams
from landrace.errors import LandraceError, OptionError
from landrace.kernels.machine_limits import MachineLimits

VOCAB = 256


@pytest.fixture
def scheduled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[int]]]:
    """The tokens of each request, for every step any engine computes."""
    from landrace.engine.scheduler import Plan, Scheduler

    steps: list[list[int]] = []
    plan = Scheduler.schedule

    def watched(self: Scheduler) -> Plan:
        planned = plan(self)
        if planned.work:
            steps.append([progress.scheduled for progress in planned.work])
        return planned

    monkeypatch.setattr(Scheduler, "schedule", watched)
    yield steps


def continuation(ours: Ours, prompt: list[int], tokens: int) -> list[int]:
    """Greedy tokens of a fresh engine, one prompt at a time."""
    engine = Engine(ours.model.decoder, ours.model.tokenizer)
    params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    (completion,) = engine.generate([Request("one", tuple(prompt), params)])
    return list(completion.token_ids)


def test_prefill_computes_every_token_it_counts(ours: Ours, scheduled: list[list[int]]) -> None:
    prompt = random_prompt(VOCAB, 300, 1)
    assert ours.first_token(prompt) == continuation(ours, prompt, 1)[0]
    assert scheduled[0] == [300]
    del scheduled[:]
    ours.first_token_again(prompt)
    assert scheduled == [[300 - 288]]  # 18 blocks of 16 come from the cache


def test_a_prefix_hit_does_not_pass_for_a_cold_prompt(ours: Ours) -> None:
    prompt = random_prompt(VOCAB, 64, 2)
    ours.first_token(prompt)
    with pytest.raises(LandraceError, match="not a cold start"):
        ours.first_token(prompt)


def test_decode_steps_hold_one_token_of_every_stream(ours: Ours, scheduled: list[list[int]]) -> None:
    prompts = [random_prompt(VOCAB, 40, stream) for stream in range(5)]
    ours.begin_decode(prompts, room=24)
    ours.rewind()
    del scheduled[:]
    first = ours.decode(6)
    assert scheduled == [[1] * 5] * 6
    ours.rewind()
    assert ours.decode(6) == first
    ours.end_decode()
    for stream, prompt in enumerate(prompts):
        assert [step[stream] for step in first] == continuation(ours, prompt, 7)[1:]


def test_samples_of_many_pairs_begin_at_the_same_context(
    ours: Ours, scheduled: list[list[int]], machine: MachineLimits
) -> None:
    bench = bench_of({"landrace": ours}, machine, pairs=3)
    result = measure_decode(bench, DecodeRow(streams=3, context=64))
    steps = int(result.settings["steps"])
    assert len(result.samples["landrace"]) == 3
    # Prompts once; then, for the calibration, the warm-up and each pair, what is no whole block and the steps.
    tokens = sum(map(sum, scheduled))
    assert tokens == 3 * 64 + 3 * 16 * 5 + 3 * (2 + 4 * steps)


@pytest.mark.parametrize(("experts", "different"), [(0, 1), (1000, 3)])
def test_equal_streams_are_not_for_experts(
    tiny_folder: Path, ours: Ours, machine: MachineLimits, experts: int, different: int
) -> None:
    peer, begun = Ours.open(str(tiny_folder), threads=1), []
    begin = peer.begin_decode
    peer.begin_decode = lambda prompts, room: begun.append(prompts) or begin(prompts, room)  # type: ignore[method-assign]
    bench = bench_of({"landrace": ours, "peer": peer}, machine, pairs=1)
    bench = replace(bench, cost=replace(bench.cost, matrices=MatrixBytes(1000, experts)))
    measure_decode(bench, DecodeRow(streams=3, context=64))
    assert len(set(map(tuple, begun[0]))) == different


def test_decoding_needs_a_beginning(ours: Ours) -> None:
    with pytest.raises(LandraceError, match="begin_decode"):
        ours.decode(1)


def test_rows_have_figures_and_limits(ours: Ours, machine: MachineLimits) -> None:
    bench = bench_of({"landrace": ours}, machine, pairs=2)
    prefill = measure_prefill(bench, PrefillRow(128))
    cold, cached = measure_first_token(bench, FirstTokenRow(200))
    for result in (prefill, cold, cached):
        assert len(result.samples["landrace"]) == 2
        assert result.limit is not None and result.limit.value > 0
    assert (cold.name, cached.name) == ("first token of 200, cold", "first token of 200, prefix cached")


def bench_of(runners: dict[str, Runner], machine: MachineLimits, pairs: int) -> Bench:
    ours = runners["landrace"]
    assert isinstance(ours, Ours)
    cost = ModelCost(ours.checkpoint.spec, MatrixBytes(ours.weight_bytes), ours.cache_bytes_per_token, "float32")
    return Bench(runners, cost, machine, pairs)


def test_a_fresh_process_tells_load_and_memory(tiny_folder: Path, ours: Ours) -> None:
    figures = measure_fresh(RunnerChoice("landrace", str(tiny_folder), 1), random_prompt(VOCAB, 100, 0))
    assert figures.load_seconds > 0
    # 101 tokens lie in 7 blocks of 16.
    assert figures.held_bytes == ours.weight_bytes + 112 * ours.cache_bytes_per_token
    assert figures.peak_bytes > figures.held_bytes


def test_a_fresh_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(LandraceError, match=r"landrace could not be measured.*nowhere"):
        measure_fresh(RunnerChoice("landrace", str(tmp_path / "nowhere.gguf"), 1), [1, 2, 3])


def test_transformers_decodes_what_its_own_generate_does(tiny_folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    prompt = random_prompt(VOCAB, 30, 3)
    runner: Any = RunnerChoice("transformers", str(tiny_folder), 1).open()
    first = runner.first_token(prompt)
    assert runner.first_token_again(prompt) == runner.first_token_again(prompt) == first
    runner.begin_decode([prompt], room=20)
    runner.rewind()
    tokens = runner.decode(8)
    runner.rewind()
    assert runner.decode(8) == tokens
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    out = model.generate(torch.tensor([prompt]), max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert [first, *(token for (token,) in tokens)] == out[0, len(prompt) :].tolist()
    with pytest.raises(OptionError, match="one stream"):
        runner.begin_decode([prompt, prompt], room=4)


def test_transformers_gets_the_weights_of_a_gguf(smollm2_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    choice = choose_peer("transformers", open_checkpoint(smollm2_path), 1, tmp_path / "unpacked")
    assert isinstance(choice, RunnerChoice)
    prompt = Ours.open(str(smollm2_path), threads=1).model.tokenizer.encode("The capital of France is")
    paris = Ours.open(str(smollm2_path), threads=1).first_token(prompt)
    assert choice.open().first_token(prompt) == paris


def test_llama_cpp_runs_the_same_model(smollm2_path: Path) -> None:
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed")
    ours = Ours.open(str(smollm2_path), threads=1)
    encode = ours.model.tokenizer.encode
    # Sure continuations: llama.cpp rounds activations, and must not flip a close choice.
    texts = ("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,", "a b c d e f g h i j k l m n o p q r s t")
    prompts = [encode(text) for text in texts]
    shortest = min(map(len, prompts))
    prompts = [prompt[:shortest] for prompt in prompts]
    peer: Any = RunnerChoice("llama.cpp", str(smollm2_path), 1).open()
    try:
        assert [peer.first_token(p) for p in prompts] == [ours.first_token(p) for p in prompts]
        assert peer.first_token_again(prompts[-1]) == ours.first_token_again(prompts[-1])
        found = []
        for runner in (ours, peer):
            runner.begin_decode([prompts[0], prompts[1], prompts[0]], room=20)
            runner.rewind()
            runner.decode(2)
            runner.rewind()
            found.append(runner.decode(8))
            runner.end_decode()
        assert found[0] == found[1]
    finally:
        peer.close()


def test_llama_cpp_is_left_out_for_a_folder(tiny_folder: Path, tmp_path: Path) -> None:
    reason = choose_peer("llama.cpp", open_checkpoint(tiny_folder), 1, tmp_path)
    assert isinstance(reason, str) and ".gguf" in reason


def test_the_limit_of_a_row_is_the_machine_s_beside_it(ours: Ours, machine: MachineLimits) -> None:
    """On a shared machine the bandwidth is another one from moment to moment."""
    rates = iter((10.0, 40.0, 20.0))
    bench = replace(bench_of({"landrace": ours}, machine, pairs=3), read_rate=lambda: next(rates))
    result = measure_decode(bench, DecodeRow(streams=1, context=64))
    past = 64 + (result.settings["steps"] - 1) / 2
    assert result.settings["read_gb_s"] == 20.0
    assert result.limit is not None and result.limit.set_by == "bytes"
    assert result.limit.value == pytest.approx(20e9 / bench.cost.bytes(StepWork(1, 1, past)))
    assert list(result.samples) == ["landrace"]
