"""/v1/chat/completions through the `openai` client, held against the engine called directly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from patience import SECONDS, wait_until

from landrace.engine import Completion
from landrace.ledger import Ledger

Ask = Callable[..., Completion]

HELLO = [{"role": "user", "content": "Hello there"}]
LONG = [{"role": "system", "content": "Be brief. " * 12}, {"role": "user", "content": "Xin chào, 你好"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}


@pytest.fixture(scope="module")
def base(server: Any) -> str:
    return str(server.client.models.list().data[0].id)


def in_stream(client: openai.OpenAI, **call: Any) -> tuple[dict[int, str], dict[int, str], list[Any]]:
    """Text and finish reason of each choice, and all chunks."""
    chunks = list(client.chat.completions.create(stream=True, **call))
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        assert choice.index not in reasons, "a choice goes on after its finish reason"
        if choice.index not in texts:
            assert choice.delta.role == "assistant"
        texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
        if choice.finish_reason is not None:
            reasons[choice.index] = choice.finish_reason
    return texts, reasons, chunks


def token_bytes(choice: Any) -> list[bytes]:
    return [bytes(entry.bytes) for entry in choice.logprobs.content]


def shown(tokenizer: Any, completion: Completion) -> list[bytes]:
    return [tokenizer.token_bytes(token) for token in completion.token_ids]


def spelled(raw: list[int]) -> str:
    """How the API writes a token: its text, or its bytes where they are no text."""
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in raw)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from landrace.text import load_tokenizer

    return load_tokenizer(tiny_model)


@pytest.mark.parametrize("messages", [HELLO, LONG])
@pytest.mark.parametrize("adapter", [None, "tuned"])
def test_the_answer_is_the_engines_token_for_token(
    server: Any, base: str, ask: Ask, tokenizer: Any, messages: Any, adapter: str | None
) -> None:
    expected = ask(messages, adapter, logprobs=2)
    call = {"model": adapter or base, "messages": messages, "logprobs": True, "top_logprobs": 2, **GREEDY}
    whole = server.client.chat.completions.create(**call)
    choice = whole.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", expected.text)
    assert token_bytes(choice) == shown(tokenizer, expected)
    assert whole.model == (adapter or base)
    assert choice.finish_reason == expected.finish_reason == "length"
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (expected.prompt_tokens, 24)
    assert whole.usage.total_tokens == expected.prompt_tokens + 24
    for entry, wanted in zip(choice.logprobs.content, expected.logprobs, strict=True):
        assert entry.logprob == pytest.approx(wanted.logprob, abs=1e-4)
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx([p for _, p in wanted.top], abs=1e-4)
        assert [bytes(top.bytes) for top in entry.top_logprobs] == [tokenizer.token_bytes(t) for t, _ in wanted.top]
        assert [top.token for top in entry.top_logprobs] == [spelled(top.bytes) for top in entry.top_logprobs]
    texts, reasons, chunks = in_stream(server.client, **call)
    assert (texts, reasons) == ({0: expected.text}, {0: "length"})
    streamed = [entry for chunk in chunks if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    assert [bytes(entry.bytes) for entry in streamed] == shown(tokenizer, expected)
    assert len({chunk.id for chunk in chunks}) == 1


def test_base_and_adapter_differ(ask: Ask) -> None:
    assert ask(HELLO).token_ids != ask(HELLO, "tuned").token_ids


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1.5, "seed": 5},
        {"temperature": 1.5, "seed": 5, "top_p": 0.3},
        {"temperature": 1.5, "seed": 5, "top_k": 3},
        {"temperature": 1.5, "seed": 5, "min_p": 0.4},
        {"repetition_penalty": 1.8},
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"logit_bias": {"70": 100.0}},
        {"max_tokens": 5},
        {"max_completion_tokens": 5},
    ],
    ids=lambda fields: "+".join(fields),
)
def test_every_sampling_field_reaches_the_engine(server: Any, base: str, ask: Ask, fields: dict[str, Any]) -> None:
    params = dict(fields)
    if "max_completion_tokens" in params:
        params["max_tokens"] = params.pop("max_completion_tokens")
    if "logit_bias" in params:
        params["logit_bias"] = {int(token): bias for token, bias in params["logit_bias"].items()}
    expected = ask(HELLO, **params)
    dropped = {name: value for name, value in params.items() if name != list(params)[-1]}
    assert expected.text != ask(HELLO, **dropped).text, "this field changes nothing here: the test shows nothing"
    body = {"model": base, "messages": HELLO, "temperature": 0, "max_tokens": 24, **fields}
    if "max_completion_tokens" in fields:
        del body["max_tokens"]
    reply = server.post("/v1/chat/completions", body).json()
    assert reply["choices"][0]["message"]["content"] == expected.text


@pytest.mark.parametrize("several", [False, True])
def test_stop_strings(server: Any, base: str, ask: Ask, several: bool) -> None:
    plain = ask(HELLO)
    at = next(i for i in range(6, len(plain.text)) if plain.text[i].isascii() and plain.text[i] not in plain.text[:i])
    stop = plain.text[at]
    expected = ask(HELLO, stop=(stop,))
    assert (expected.text, expected.finish_reason) == (plain.text[:at], "stop")
    call = {"model": base, "messages": HELLO, "stop": ["not in it", stop] if several else stop, **GREEDY}
    whole = server.client.chat.completions.create(**call)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (plain.text[:at], "stop")
    assert whole.usage.completion_tokens == len(expected.token_ids) < 24
    assert in_stream(server.client, **call)[:2] == ({0: plain.text[:at]}, {0: "stop"})


def test_stop_tokens_and_the_end_of_sequence(server: Any, base: str, ask: Ask, tokenizer: Any) -> None:
    plain = ask(HELLO)
    body = {"model": base, "messages": HELLO, **GREEDY, "stop_token_ids": [plain.token_ids[9]]}
    expected = ask(HELLO, stop_token_ids=(plain.token_ids[9],))
    reply = server.post("/v1/chat/completions", body).json()
    assert reply["usage"]["completion_tokens"] == len(expected.token_ids) <= 10
    assert reply["choices"][0]["finish_reason"] == "stop"
    (eos,) = tokenizer.eos_ids
    body = {"model": base, "messages": HELLO, **GREEDY, "logit_bias": {str(eos): 100}}
    reply = server.post("/v1/chat/completions", body).json()
    assert (reply["usage"]["completion_tokens"], reply["choices"][0]["message"]["content"]) == (1, "")
    reply = server.post("/v1/chat/completions", {**body, "ignore_eos": True}).json()
    assert (reply["usage"]["completion_tokens"], reply["choices"][0]["finish_reason"]) == (24, "length")


def test_choices_have_the_seed_plus_their_number(server: Any, base: str, ask: Ask) -> None:
    sampled = {"temperature": 1.5, "max_tokens": 12}
    expected = {k: ask(HELLO, seed=40 + k, **sampled).text for k in range(3)}
    assert len(set(expected.values())) == 3
    call = {"model": base, "messages": HELLO, "n": 3, "seed": 40, **sampled}
    whole = server.client.chat.completions.create(**call)
    assert {choice.index: choice.message.content for choice in whole.choices} == expected
    assert whole.usage.completion_tokens == 36
    assert whole.usage.prompt_tokens == ask(HELLO).prompt_tokens
    texts, _, chunks = in_stream(server.client, stream_options={"include_usage": True}, **call)
    assert texts == expected
    assert chunks[-1].choices == []
    assert (chunks[-1].usage.completion_tokens, chunks[-1].usage.prompt_tokens) == (36, ask(HELLO).prompt_tokens)
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_without_a_seed_answers_differ(server: Any, base: str) -> None:
    call = {"model": base, "messages": HELLO, "n": 2, "temperature": 2.0, "max_tokens": 24}
    first, second = server.client.chat.completions.create(**call).choices
    assert first.message.content != second.message.content


def test_usage_shows_what_came_from_the_prefix_cache(server: Any, base: str) -> None:
    messages = [{"role": "user", "content": "A sentence that no other test sends, of some length. " * 2}]
    usages = [
        server.client.chat.completions.create(model=base, messages=messages, max_tokens=2).usage for _ in range(2)
    ]
    assert usages[0].prompt_tokens_details.cached_tokens == 0
    cached = usages[1].prompt_tokens_details.cached_tokens
    assert cached % 16 == 0 and 64 <= cached < usages[1].prompt_tokens


def test_without_max_tokens_the_answer_may_fill_the_context(server: Any, base: str, ask: Ask) -> None:
    reply = server.post("/v1/chat/completions", {"model": base, "messages": HELLO, "ignore_eos": True}).json()
    (model,) = [model for model in server.client.models.list() if model.id == base]
    assert reply["usage"]["total_tokens"] == model.max_model_len
    assert reply["choices"][0]["finish_reason"] == "length"


def test_template_variables_reach_the_template(server: Any, base: str, ask: Ask) -> None:
    body = {"model": base, "messages": HELLO, "max_tokens": 1, "chat_template_kwargs": {"style": "abc"}}
    reply = server.post("/v1/chat/completions", body).json()
    assert reply["usage"]["prompt_tokens"] == ask(HELLO).prompt_tokens + len("[abc]")


def test_fields_that_do_nothing_and_null_are_taken(server: Any, base: str, ask: Ask) -> None:
    optional = ("stop", "seed", "n", "logit_bias", "top_p", "frequency_penalty", "stream_options", "top_logprobs")
    reply = server.client.chat.completions.create(
        model=base,
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hello there"}]}],
        user="u-1",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        response_format={"type": "text"},
        tools=None,  # type: ignore[arg-type]
        logprobs=None,
        **dict.fromkeys(optional),
        **GREEDY,
    )
    assert reply.choices[0].message.content == ask(HELLO).text
    assert reply.choices[0].logprobs is None


def test_many_clients_at_once_get_what_each_gets_alone(server: Any, base: str, ask: Ask) -> None:
    calls = [
        (adapter, [{"role": "user", "content": "word " * (1 + index % 7) + str(index)}])
        for index in range(16)
        for adapter in (None, "tuned")
    ]

    async def run() -> list[str]:
        url = f"{server.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=SECONDS) as client:

            async def one(index: int, adapter: str | None, messages: Any) -> str:
                call = {"model": adapter or base, "messages": messages, **GREEDY}
                if index % 4 < 2:
                    whole = await client.chat.completions.create(**call)
                    return str(whole.choices[0].message.content)
                parts = await client.chat.completions.create(stream=True, **call)
                return "".join([part.choices[0].delta.content or "" async for part in parts])

            return await asyncio.gather(*(one(index, *call) for index, call in enumerate(calls)))

    assert asyncio.run(run()) == [ask(messages, adapter).text for adapter, messages in calls]


def test_models_and_health(server: Any, base: str) -> None:
    models = {model.id: model for model in server.client.models.list()}
    assert set(models) == {base, "tuned"}
    assert (models[base].parent, models["tuned"].parent) == (None, base)
    assert server.client.models.retrieve("tuned").id == "tuned"
    # Others' clients may have left just now.
    idle = {"status": "ok", "engines": {}, "unfinished_requests": 0}
    wait_until(lambda: idle.items() <= server.get("/health").json().items())


def test_every_request_leaves_a_usage_row(server: Any, base: str) -> None:
    def rows() -> dict[str, Any]:
        with Ledger(server.ledger) as ledger:
            return {row.request_id: row for row in ledger.usage()}

    call = {"model": "tuned", "messages": HELLO, "n": 2, **GREEDY}
    reply = server.client.chat.completions.create(**call)
    wait_until(lambda: f"{reply.id}-1" in rows())
    row = rows()[f"{reply.id}-1"]
    assert (row.model, row.adapter, row.finish_reason) == ("tuned", "tuned", "length")
    assert (row.prompt_tokens, row.completion_tokens) == (reply.usage.prompt_tokens, 24)
    assert 0 < row.first_token_seconds < row.total_seconds
    with Ledger(server.ledger) as ledger:
        run = ledger.run(row.run_id)
    assert (run.kind, run.status, run.config["models"]) == ("serve", "running", [base])
