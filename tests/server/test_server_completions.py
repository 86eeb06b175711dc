"""/v1/completions through the `openai` client, held against the engine called directly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from landrace.engine import Completion
from landrace.text import Tokenizer, load_tokenizer

Ask = Callable[..., Completion]

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
TEXT = "An early bird, ự 鳥"


@pytest.fixture(scope="module")
def base(server: Any) -> str:
    return str(server.client.models.list().data[0].id)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return load_tokenizer(tiny_model)


@pytest.mark.parametrize("adapter", [None, "tuned"])
@pytest.mark.parametrize("form", ["text", "ids", "texts", "lists of ids"])
def test_prompts_in_every_form(
    server: Any, base: str, ask: Ask, tokenizer: Tokenizer, form: str, adapter: str | None
) -> None:
    texts = [TEXT] if form in ("text", "ids") else [TEXT, "Another", TEXT]
    ids = [tokenizer.encode(text) for text in texts]
    prompt: Any = {"text": TEXT, "ids": ids[0], "texts": texts, "lists of ids": ids}[form]
    reply = server.client.completions.create(model=adapter or base, prompt=prompt, n=2, **GREEDY)
    expected = [ask(one, adapter, max_tokens=12) for one in ids for _ in range(2)]
    assert [choice.index for choice in reply.choices] == [*range(len(expected))]
    assert [choice.text for choice in reply.choices] == [completion.text for completion in expected]
    assert reply.usage.prompt_tokens == sum(map(len, ids))
    assert reply.usage.completion_tokens == 12 * len(expected)
    assert {choice.finish_reason for choice in reply.choices} == {"length"}


def test_a_control_token_in_the_prompt_is_one_token(server: Any, base: str) -> None:
    reply = server.client.completions.create(model=base, prompt="<|im_start|>a", **GREEDY)
    assert reply.usage.prompt_tokens == 2


def test_sixteen_tokens_are_the_default(server: Any, base: str) -> None:
    reply = server.post("/v1/completions", {"model": base, "prompt": "a", "ignore_eos": True}).json()
    assert reply["usage"]["completion_tokens"] == 16


def as_bytes(token: str) -> bytes:
    """The bytes that a token of a reply stands for."""
    if token.startswith("bytes:"):
        return bytes(int(byte, 16) for byte in token.removeprefix("bytes:").split("\\x")[1:])
    return token.encode()


@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize("echo", [False, True])
def test_logprobs_and_offsets_whole_and_streamed(
    server: Any, base: str, ask: Ask, tokenizer: Tokenizer, echo: bool, as_ids: bool
) -> None:
    ids = tokenizer.encode(TEXT)
    expected = ask(ids, max_tokens=12, logprobs=3, prompt_logprobs_from=1 if echo else None)
    call = {"model": base, "prompt": ids if as_ids else TEXT, "logprobs": 3, "echo": echo, **GREEDY}
    choice = server.client.completions.create(**call).choices[0]
    assert choice.text == (TEXT if echo else "") + expected.text
    entries = (*expected.prompt_logprobs, *expected.logprobs)
    first = [None] * echo
    told = choice.logprobs
    assert [p for p in told.token_logprobs if p is not None] == pytest.approx([e.logprob for e in entries], abs=1e-4)
    assert told.token_logprobs[: len(first)] == told.top_logprobs[: len(first)] == first
    tokens = [*(ids if echo else ()), *expected.token_ids]
    assert [as_bytes(token) for token in told.tokens] == [tokenizer.token_bytes(token) for token in tokens]
    for token, offset in zip(told.tokens, told.text_offset, strict=True):
        assert token.startswith("bytes:") or choice.text[offset:].startswith(token)
    chunks = list(server.client.completions.create(stream=True, **call))
    assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        parts = [getattr(chunk.choices[0].logprobs, name) for chunk in chunks]
        assert [item for part in parts for item in part] == getattr(told, name)


def test_parts_of_characters_do_not_hide_one_another(server: Any, base: str, ask: Ask, tokenizer: Tokenizer) -> None:
    """Every token of this vocabulary is a byte, and half of them are no character: all looked alike once."""
    text = "\U0001f600\U0001f680\U0001f389\U0001f9ea"
    expected = ask(tokenizer.encode(text), max_tokens=12, logprobs=20, prompt_logprobs_from=1)
    call = {"model": base, "prompt": text, "logprobs": 20, "echo": True, **GREEDY}
    told = server.client.completions.create(**call).choices[0].logprobs
    assert [as_bytes(token) for token in told.tokens[:16]] == [bytes([byte]) for byte in text.encode()]
    assert told.tokens[:2] == ["bytes:\\xf0", "bytes:\\x9f"]
    assert told.text_offset[:17] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [4]
    wanted = [item.top for item in (*expected.prompt_logprobs, *expected.logprobs)]
    for top, entries in zip(told.top_logprobs[1:], wanted, strict=True):
        assert len(top) == len(entries) == 20
        assert [as_bytes(token) for token in top] == [tokenizer.token_bytes(token) for token, _ in entries]
        assert list(top.values()) == pytest.approx([logprob for _, logprob in entries], abs=1e-4)


def test_scoring_a_prompt_without_generating(server: Any, base: str, ask: Ask, tokenizer: Tokenizer) -> None:
    # Longer than one step of the server, so its scores come in pieces.
    text = "0123456789 " * 12
    ids = tokenizer.encode(text)
    assert len(ids) > 64
    expected = ask(ids, max_tokens=0, logprobs=1, prompt_logprobs_from=1).prompt_logprobs
    call = {"model": base, "prompt": text, "echo": True, "max_tokens": 0}
    choice = server.client.completions.create(logprobs=1, **call).choices[0]
    assert (choice.text, choice.finish_reason) == (text, "length")
    assert choice.logprobs.token_logprobs[1:] == pytest.approx([entry.logprob for entry in expected], abs=1e-4)
    chunks = list(server.client.completions.create(logprobs=1, stream=True, **call))
    assert chunks[0].choices[0].text == text
    assert chunks[0].choices[0].logprobs.token_logprobs == choice.logprobs.token_logprobs
    assert chunks[-1].choices[0].finish_reason == "length"
    plain = server.client.completions.create(**call)
    assert (plain.choices[0].text, plain.choices[0].logprobs) == (text, None)
    assert plain.usage.completion_tokens == 0


def test_a_prompt_of_one_token_has_nothing_to_score(server: Any, base: str, ask: Ask, tokenizer: Tokenizer) -> None:
    reply = server.client.completions.create(model=base, prompt="a", echo=True, logprobs=0, **GREEDY)
    expected = ask(tokenizer.encode("a"), max_tokens=12)
    assert reply.choices[0].text == "a" + expected.text
    assert reply.choices[0].logprobs.token_logprobs[0] is None
    assert len(reply.choices[0].logprobs.token_logprobs) == 13


def test_a_stream_ends_with_its_usage(server: Any, base: str) -> None:
    call = {"model": base, "prompt": ["a", "bc"], "stream_options": {"include_usage": True}, **GREEDY}
    chunks = list(server.client.completions.create(stream=True, **call))
    assert chunks[-1].choices == []
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (3, 24)
