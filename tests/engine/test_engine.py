"""What the engine promises about ends, errors, text and isolation."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landrace.engine import Completion, Engine, EngineOptions, Request, SamplingParams, StepOutput
from landrace.errors import LandraceError, OptionError, PromptTooLongError, RequestError
from landrace.kernels.mask import FULL, Chunked, Sliding
from landrace.models.batch import ForwardBatch
from landrace.models.declared import shapes_of
from landrace.models.decoder import Decoder
from landrace.models.ffn_spec import Dense
from landrace.models.lora_spec import LoraSpec
from landrace.models.mixer_spec import Gqa
from landrace.models.spec import LayerSpec, ModelSpec

VOCAB = 64
EOS, EMOJI = 63, [32, 33, 34, 35]


class Script:
    """Stands in for a decoder: each sequence's first token chooses a line of `lines`, which it then recites."""

    def __init__(self, decoder: object, lines: list[list[int]]) -> None:
        self.spec, self.device, self.lines = decoder.spec, decoder.device, lines  # type: ignore[attr-defined]
        self.new_cache = decoder.new_cache  # type: ignore[attr-defined]
        self.choose_tokens, self.differentiable = decoder.choose_tokens, False  # type: ignore[attr-defined]
        self.cache_tile = 1
        self.line_of_slot: dict[int, int] = {}

    def __call__(self, batch: ForwardBatch) -> torch.Tensor:
        (view,) = batch.cache.groups.values()
        starts = [int(slots[0]) for slots in view.sequence_slots]
        for sequence, first_slot in enumerate(starts):
            row = batch.starts[sequence]
            if batch.positions[row] == 0:
                self.line_of_slot[first_slot] = int(batch.token_ids[row])
        logits = torch.zeros(len(batch.logit_rows), VOCAB)
        for index, row in enumerate(batch.logit_rows.tolist()):
            sequence = max(s for s, start in enumerate(batch.starts[:-1]) if start <= row)
            line = self.lines[self.line_of_slot[starts[sequence]]]
            position = int(batch.positions[row])
            logits[index, line[position % len(line)]] = 9.0
        return logits


@pytest.fixture(scope="module")
def recite(tiny_decoder: Callable, tokenizer: object) -> Callable[..., Engine]:
    def make(*lines: list[int], **options: object) -> Engine:
        return Engine(Script(tiny_decoder(), list(lines)), tokenizer, EngineOptions(prefix_cache=False, **options))

    return make


def greedy(**fields: object) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 20, "temperature": 0.0, **fields})


def one(engine: Engine, prompt: tuple[int, ...] = (0,), **fields: object) -> Completion:
    return engine.generate([Request("r", prompt, greedy(**fields))])[0]


def check_all_free(engine: Engine) -> None:
    for pool in (group.pool for group in engine._scheduler.cache.groups):
        assert len(pool.free) == pool.n_blocks


def ids(text: str) -> list[int]:
    return [ord(letter) - 97 if letter.isalpha() else {" ": 26, ".": 27}[letter] for letter in text]


def test_every_end_of_sequence_token_ends(recite: Callable) -> None:
    for eos in (62, 63):
        result = one(recite([*ids("hello"), eos, *ids("more")]))
        assert (result.text, result.finish_reason) == ("hello", "stop")
        assert result.token_ids == (*ids("hello"), eos)
    result = one(recite([*ids("hello"), EOS, *ids("more")]), ignore_eos=True, max_tokens=8)
    assert (result.text, result.finish_reason, len(result.token_ids)) == ("hellomo", "length", 8)


def test_stop_token_ids(recite: Callable) -> None:
    result = one(recite(ids("hello.more")), stop_token_ids=(27,))
    assert (result.text, result.finish_reason, result.token_ids[-1]) == ("hello", "stop", 27)


def test_a_stop_string_over_several_tokens_never_shows(recite: Callable) -> None:
    engine = recite(ids("one two stoat stop three"))
    seen: list[str] = []
    engine.generate(
        [Request("r", (0,), greedy(stop=("stop",), max_tokens=40))], lambda output: seen.append(output.text)
    )
    assert "".join(seen) == "one two stoat "
    assert seen[8:12] == ["", "", "", "stoa"]


def test_a_held_back_stop_prefix_comes_out_at_the_end(recite: Callable) -> None:
    result = one(recite(ids("abc st")), stop=("stop",), max_tokens=6)
    assert (result.text, result.finish_reason) == ("abc st", "length")
    result = one(recite([*ids("abc st"), EOS]), stop=("stop",))
    assert (result.text, result.finish_reason) == ("abc st", "stop")


def test_a_stop_string_that_only_the_flush_completes(recite: Callable) -> None:
    result = one(recite([*ids("a"), *EMOJI[:2]]), stop=("a\ufffd",), max_tokens=3)
    assert (result.text, result.finish_reason) == ("", "stop")


def test_characters_come_whole(recite: Callable) -> None:
    seen: list[str] = []
    engine = recite([*EMOJI, *EMOJI[:2], EOS])
    engine.generate([Request("r", (0,), greedy())], lambda output: seen.append(output.text))
    assert seen == ["", "", "", "🙂", "", "", "\ufffd"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 37), min_size=1, max_size=20),
    st.lists(st.text(alphabet="abc🙂é", min_size=1, max_size=3), max_size=3),
)
def test_text_equals_the_naive_cut(
    tiny_decoder: Callable, tokenizer: object, line: list[int], stops: list[str]
) -> None:
    engine = Engine(Script(tiny_decoder(), [line]), tokenizer, EngineOptions())
    result = one(engine, max_tokens=len(line), stop=tuple(stops))
    full, expected = "", None
    for end in range(1, len(line) + 1):
        full = b"".join(tokenizer.pieces[token] for token in line[:end]).decode(errors="ignore")  # type: ignore[attr-defined]
        found = [full.find(stop) for stop in stops if stop in full]
        if found:
            expected = (full[: min(found)], "stop")
            break
    if expected is None:
        expected = (tokenizer.decode(line), "length")  # type: ignore[attr-defined]
    if "\ufffd" not in tokenizer.decode(line):  # type: ignore[attr-defined]
        assert (result.text, result.finish_reason) == expected


def test_the_models_length_ends_a_sequence(tiny_decoder: Callable, tokenizer: object) -> None:
    engine = Engine(tiny_decoder(), tokenizer, EngineOptions(max_length=12))
    result = one(engine, (1, 2, 3), ignore_eos=True, max_tokens=100)
    assert (len(result.token_ids), result.finish_reason) == (9, "length")
    result = one(engine, tuple(range(11)), ignore_eos=True)
    assert len(result.token_ids) == 1
    assert one(engine, tuple(range(12)), max_tokens=0, prompt_logprobs_from=1).finish_reason == "length"
    with pytest.raises(OptionError):
        Engine(tiny_decoder(), tokenizer, EngineOptions(max_length=257))


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


def test_an_answer_that_fills_the_cache_ends_there(tiny_decoder: Callable, tokenizer: object) -> None:
    engine = Engine(tiny_decoder(), tokenizer, EngineOptions(cache_tokens=24, block_size=4))
    expected = one(Engine(tiny_decoder(), tokenizer), (2, 5), ignore_eos=True).token_ids
    large, small = engine.generate(
        [
            Request("large", (1,), greedy(max_tokens=100, ignore_eos=True)),
            Request("small", (2, 5), greedy(ignore_eos=True)),
        ]
    )
    assert (large.finish_reason, large.error) == ("length", None)
    assert 1 + len(large.token_ids) == engine.max_length == 24
    assert large.text
    assert small.token_ids == expected


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.integers(1, 8),
    block_size=st.integers(1, 4),
    step=st.integers(1, 12),
    asked=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 40)), min_size=1, max_size=6),
)
def test_requests_that_do_not_fit_together_each_come_to_their_end(
    recite: Callable[..., Engine], blocks: int, block_size: int, step: int, asked: list[tuple[int, int]]
) -> None:
    room = blocks * block_size
    engine = recite([1, 2, 3, 4], block_size=block_size, cache_tokens=room, max_step_tokens=step)
    assert engine.max_length == room
    requests = [Request(str(i), (0,) * length, greedy(max_tokens=most)) for i, (length, most) in enumerate(asked)]
    for request, result in zip(requests, engine.generate(requests), strict=True):
        length, most = len(request.prompt_ids), request.params.max_tokens
        if length >= room:
            assert isinstance(result.error, PromptTooLongError) and result.error.field == "prompt"
        else:
            assert (result.finish_reason, len(result.token_ids)) == ("length", min(most, room - length))
            assert result.text
    assert not engine.has_work


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


def test_abort(tiny_decoder: Callable, tokenizer: object) -> None:
    engine = Engine(tiny_decoder(), tokenizer, EngineOptions(max_running=2))
    for name in ("a", "b", "waiting"):
        engine.add(Request(name, (1, 2, 3), greedy(ignore_eos=True)))
    engine.step()
    engine.step()
    for name in ("a", "waiting", "unknown", "a"):
        engine.abort(name)
    outputs: list[StepOutput] = []
    while engine.has_work:
        outputs += engine.step()
    assert [(o.request_id, o.finish_reason) for o in outputs if o.finish_reason == "abort"] == [
        ("a", "abort"),
        ("waiting", "abort"),
    ]
    assert len([o for o in outputs if o.request_id == "b"]) == 18
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


def test_the_tokenizer_is_the_only_source_of_end_tokens(tiny_decoder: Callable, tokenizer: object) -> None:
    other = SimpleNamespace(**{**vars(tokenizer), "eos_ids": frozenset({5})}, shown_bytes=tokenizer.shown_bytes)  # type: ignore[attr-defined]
    result = one(Engine(Script(tiny_decoder(), [ids("abcdefgh")]), other, EngineOptions(prefix_cache=False)))
    assert result.text == "abcde"


def test_requests_travel() -> None:
    request = Request("r", [1, 2], greedy(stop=("x",)), "adapter")  # type: ignore[arg-type]
    again = pickle.loads(pickle.dumps(request))
    assert (again.id, again.prompt_ids, again.params, again.adapter) == ("r", (1, 2), request.params, "adapter")


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


def test_a_window_takes_memory_for_the_window(tokenizer: object) -> None:
    """32 layers of 8 heads of 64 channels that all see 128 positions, at 16k tokens: 2.1 GB where all are kept."""
    heads = {"n_heads": 8, "n_kv_heads": 8, "head_dim": 64, "scale": 0.125, "rope": None}
    sizes = {
        "alone": EngineOptions(cache_tokens=16384, max_running=1, max_step_tokens=16),
        "default": EngineOptions(cache_tokens=16384),
        "long": EngineOptions(cache_tokens=131072),
    }
    kept = {}
    for mask in (FULL, Sliding(128), Chunked(128)):
        layer = LayerSpec(Gqa(mask=mask, **heads), Dense(8))  # type: ignore[arg-type]
        spec = ModelSpec(8, 8, (layer,) * 32, norm_eps=1e-5, tie_embeddings=True, max_length=131072)
        for name, options in sizes.items():
            kept[mask, name] = Engine(Decoder(spec), tokenizer, options).cache_bytes / 1e6
    assert kept[FULL, "alone"] == kept[FULL, "default"] == pytest.approx(2147, abs=1)
    for mask in (Sliding(128), Chunked(128)):
        assert kept[mask, "alone"] == pytest.approx(21, abs=1)
        assert kept[mask, "default"] == pytest.approx(1384, abs=1)
        assert kept[mask, "long"] == kept[mask, "default"] < kept[FULL, "long"] / 12


def test_a_window_serves_a_long_prompt_in_the_memory_of_the_window(tiny_decoder: Callable, tokenizer: object) -> None:
    decoder = tiny_decoder(masks=(Sliding(128),), max_length=16384)
    engine = Engine(decoder, tokenizer, EngineOptions(max_running=1))
    (group,) = engine._scheduler.cache.groups
    assert group.pool.n_blocks == (127 + 30 + 512) // 16
    tokens = [(7 * i + i // 50) % 60 for i in range(16000)]
    result = one(engine, tuple(tokens), ignore_eos=True, max_tokens=4, logprobs=1)
    for entry in result.logprobs:
        # Three layers: what lies further back than three windows decides nothing.
        packed = ForwardBatch.packed([tokens[-400:]], logit_rows=torch.tensor([399]))
        with torch.inference_mode():
            row = decoder(replace(packed, positions=torch.arange(400) + len(tokens) - 400)).log_softmax(-1)[0]
        assert row.argmax() == entry.token_id
        assert entry.logprob == pytest.approx(row.max().item(), abs=1e-4)
        tokens.append(entry.token_id)
    check_all_free(engine)
