"""What a request may be as long as, on a model whose own length is far more than the cache."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

ROOM = 128
MESSAGES: Any = [{"role": "user", "content": "Hello there"}]
ON: Any = {"ignore_eos": True}


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> str:
    return str(tiny_model)


@pytest.fixture(scope="module")
def small(start_server: Any, base: str) -> Any:
    return start_server(base, "--cache-tokens", str(ROOM))


@pytest.fixture(scope="module")
def n_prompt(small: Any, base: str) -> int:
    reply = small.client.chat.completions.create(model=base, messages=MESSAGES, max_tokens=1)
    return int(reply.usage.prompt_tokens)


def test_the_models_list_tells_what_fits(small: Any, base: str) -> None:
    assert small.client.models.retrieve(base).max_model_len == ROOM


def test_without_max_tokens_an_answer_ends_where_the_room_ends(small: Any, base: str) -> None:
    call: Any = {"model": base, "messages": MESSAGES, "temperature": 0, "extra_body": ON}
    whole = small.client.chat.completions.create(**call)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.total_tokens == ROOM
    assert whole.choices[0].message.content
    chunks = list(small.client.chat.completions.create(stream=True, **call))
    assert chunks[-1].choices[0].finish_reason == "length"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content


def test_the_default_of_completions_ends_there_too(small: Any, base: str) -> None:
    reply = small.client.completions.create(model=base, prompt="a" * (ROOM - 5), extra_body=ON)
    assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (5, "length")
    scored = small.client.completions.create(model=base, prompt="a" * ROOM, max_tokens=0, echo=True, logprobs=1)
    assert len(scored.choices[0].logprobs.tokens) == ROOM


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_an_explicit_limit_that_cannot_be_reached_is_refused(
    small: Any, base: str, n_prompt: int, field: str, stream: bool
) -> None:
    room = ROOM - n_prompt
    call: Any = {"model": base, "messages": MESSAGES, "stream": stream}
    for asked in (room + 1, 10**30):
        with pytest.raises(openai.BadRequestError) as caught:
            small.client.chat.completions.create(**call, **{field: asked})
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", field)
        for part in (f"maximum context length is {ROOM}", f"{field} can be {room} at most"):
            assert part in caught.value.message
    fits = small.client.chat.completions.create(model=base, messages=MESSAGES, extra_body=ON, **{field: room})
    assert (fits.usage.completion_tokens, fits.choices[0].finish_reason) == (room, "length")


def test_an_explicit_limit_of_completions_is_refused_as_well(small: Any, base: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        small.client.completions.create(model=base, prompt=["a", "a" * 100], max_tokens=29)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "max_tokens")
    assert small.client.completions.create(model=base, prompt=["a", "a" * 100], max_tokens=28).usage is not None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("max_tokens", [None, 1])
def test_a_prompt_that_alone_cannot_fit_is_refused(small: Any, base: str, stream: bool, max_tokens: int | None) -> None:
    call: Any = {"model": base, "stream": stream, "max_tokens": max_tokens}
    with pytest.raises(openai.BadRequestError) as chat:
        small.client.chat.completions.create(messages=[{"role": "user", "content": "a" * ROOM}], **call)
    assert (chat.value.code, chat.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError) as plain:
        small.client.completions.create(prompt="a" * ROOM, **call)
    assert (plain.value.code, plain.value.param) == ("context_length_exceeded", "prompt")


def test_answers_that_do_not_fit_together_all_come_to_their_end(small: Any, base: str) -> None:
    """Each fills the whole cache, so that all but one lose their place again and again."""
    asked: Any = [[{"role": "user", "content": f"{index} " * (1 + 3 * index)}] for index in range(6)]

    def ask(messages: Any) -> Any:
        return small.client.chat.completions.create(model=base, messages=messages, temperature=0, extra_body=ON)

    alone = [ask(messages) for messages in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(ask, asked))
    for one, crowded in zip(alone, together, strict=True):
        assert crowded.choices[0].finish_reason == "length"
        assert crowded.usage.total_tokens == ROOM
        assert crowded.choices[0].message.content == one.choices[0].message.content


def test_a_server_that_shifts_goes_on(start_server: Any, base: str) -> None:
    """Without the oldest tokens, which the usage counts; what was asked for is what comes."""
    server = start_server(base, "--cache-tokens", str(ROOM), "--context-overflow", "shift", "--context-keep", "2")
    answer = server.client.chat.completions.create(model=base, messages=MESSAGES, max_tokens=2 * ROOM, extra_body=ON)
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (2 * ROOM, "length")
    assert answer.usage.model_extra["dropped_tokens"] > ROOM // 2
    long = server.client.completions.create(model=base, prompt="a" * (3 * ROOM), max_tokens=4, extra_body=ON)
    assert long.usage.completion_tokens == 4 and long.usage.model_extra["dropped_tokens"] > 2 * ROOM
