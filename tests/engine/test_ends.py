"""How answers end, and that their text is whole."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recital import EMOJI, EOS, Script, check_all_free, greedy, ids, one

from landrace.engine import Engine, EngineOptions, Request, StepOutput
from landrace.errors import OptionError, PromptTooLongError


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


@settings(max_examples=60)
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


def test_the_tokenizer_is_the_only_source_of_end_tokens(tiny_decoder: Callable, tokenizer: object) -> None:
    other = SimpleNamespace(**{**vars(tokenizer), "eos_ids": frozenset({5})}, shown_bytes=tokenizer.shown_bytes)  # type: ignore[attr-defined]
    result = one(Engine(Script(tiny_decoder(), [ids("abcdefgh")]), other, EngineOptions(prefix_cache=False)))
    assert result.text == "abcde"


def test_the_models_length_ends_a_sequence(tiny_decoder: Callable, tokenizer: object) -> None:
    engine = Engine(tiny_decoder(), tokenizer, EngineOptions(max_length=12))
    result = one(engine, (1, 2, 3), ignore_eos=True, max_tokens=100)
    assert (len(result.token_ids), result.finish_reason) == (9, "length")
    result = one(engine, tuple(range(11)), ignore_eos=True)
    assert len(result.token_ids) == 1
    assert one(engine, tuple(range(12)), max_tokens=0, prompt_logprobs_from=1).finish_reason == "length"
    with pytest.raises(OptionError):
        Engine(tiny_decoder(), tokenizer, EngineOptions(max_length=257))


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


@settings(max_examples=60)
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
