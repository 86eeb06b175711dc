"""Fields that clients send without wanting anything by them change nothing; the same fields with a wish are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from landrace.engine import Completion
from landrace.server.openai.unsupported import OF_A_CALL

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
HELLO: Any = [{"role": "user", "content": "Hello there"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8}

NOTHING: list[dict[str, Any]] = [
    {"tools": []},
    {"tools": [], "tool_choice": "none", "parallel_tool_calls": False},
    {"tool_choice": "auto", "parallel_tool_calls": True},
    {"functions": [], "function_call": "none"},
    {"function_call": "auto"},
    {"best_of": 1},
    {"n": 2, "best_of": 2},
    {"n": 1},
    {"top_k": -1},
    {"top_k": 0, "top_p": 1, "min_p": 0},
    {"min_p": -0.0, "presence_penalty": -0.0, "frequency_penalty": 0, "repetition_penalty": 1},
    {"temperature": -0.0},
    {"logit_bias": {}},
    {"stop": []},
    {"stop_token_ids": []},
    {"response_format": {"type": "text"}},
    {"modalities": ["text"]},
    {"store": False, "service_tier": "default"},
    {"service_tier": "auto"},
    {"metadata": {"a": "b"}, "user": "u\u0000-1", "safety_identifier": "", "prompt_cache_key": "k"},
    {"prompt_cache_retention": "24h"},
    {"verbosity": "medium"},
    {"suffix": ""},
    {"stream_options": {}},
    {"stream_options": {"include_usage": False, "include_obfuscation": None}},
    dict.fromkeys(OF_A_CALL),
    dict.fromkeys(["stream", "stream_options", "n", "best_of", "stop", "stop_token_ids", "logit_bias", "seed"]),
    dict.fromkeys(["top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"]),
    dict.fromkeys(["logprobs", "ignore_eos"]),
]


@pytest.fixture(scope="module")
def base(server: Any) -> str:
    return str(server.client.models.list().data[0].id)


@pytest.mark.parametrize("fields", NOTHING, ids=lambda fields: "+".join(fields)[:60])
@pytest.mark.parametrize("path", [CHAT, PLAIN])
def test_what_asks_for_nothing_changes_nothing(server: Any, base: str, path: str, fields: dict[str, Any]) -> None:
    body = {"model": base, **({"messages": HELLO} if path == CHAT else {"prompt": "Hello"}), **GREEDY}
    plain = server.post(path, body).json()
    reply = server.post(path, {**body, **fields})
    assert reply.status_code == 200, reply.text
    for choice in reply.json()["choices"]:
        assert {**choice, "index": 0} == plain["choices"][0]


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": False, "top_logprobs": 0},
        {"top_logprobs": 0},
        {"max_completion_tokens": None, "chat_template_kwargs": None, "top_logprobs": None},
        {"chat_template_kwargs": {}},
        {"max_completion_tokens": 8},
    ],
    ids=lambda fields: "+".join(fields),
)
def test_what_asks_for_nothing_of_a_chat(server: Any, base: str, fields: dict[str, Any]) -> None:
    body = {"model": base, "messages": HELLO, **GREEDY}
    reply = server.post(CHAT, {**body, **fields})
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"] == server.post(CHAT, body).json()["choices"]


WISHES: list[dict[str, Any]] = [
    {"tools": {}},
    {"parallel_tool_calls": 0},
    {"parallel_tool_calls": "false"},
    {"functions": [{"name": "f"}]},
    {"function_call": {"name": "f"}},
    {"best_of": 2},
    {"best_of": 0},
    {"modalities": ["text", "audio"]},
    {"modalities": []},
    {"store": True},
    {"store": 0},
    {"service_tier": "priority"},
    {"verbosity": "high"},
    {"prediction": {"type": "content", "content": "a"}},
    {"audio": {"voice": "alloy", "format": "wav"}},
    {"web_search_options": {}},
    {"suffix": "x"},
    {"metadata": "a"},
    {"user": ["a"]},
]


@pytest.mark.parametrize("fields", WISHES, ids=lambda fields: str(fields)[:60])
@pytest.mark.parametrize("path", [CHAT, PLAIN])
def test_what_is_asked_for_and_not_there_is_refused(server: Any, base: str, path: str, fields: dict[str, Any]) -> None:
    body = {"model": base, **({"messages": HELLO} if path == CHAT else {"prompt": "Hello"}), **GREEDY}
    reply = server.post(path, {**body, **fields})
    assert reply.status_code == 400
    error = reply.json()["error"]
    (name,) = fields
    assert (error["param"], error["type"]) == (name, "invalid_request_error")
    assert name in error["message"]
    assert error["code"] in ("unsupported_parameter", "invalid_type")


@pytest.mark.parametrize(
    "fields", [{"tools": [{"type": "function", "function": {"name": "f"}}]}, {"reasoning_effort": "low"}]
)
def test_only_chats_have_tools_and_efforts(server: Any, base: str, fields: dict[str, Any]) -> None:
    (name,) = fields
    for path, body in ((PLAIN, {"prompt": "Hello"}), (CHAT, {"messages": HELLO})):
        reply = server.post(path, {"model": base, **body, **GREEDY, **fields})
        assert reply.status_code == 400
        # This model's template knows neither.
        assert reply.json()["error"]["param"] == name


def test_events_can_hide_how_long_their_texts_are(server: Any, base: str, ask: Callable[..., Completion]) -> None:
    body = {"model": base, "messages": HELLO, **GREEDY, "stream": True}
    plain = server.post(CHAT, body)
    sizes = {len(line.encode()) for line in plain.text.splitlines() if line.startswith("data: {")}
    options = {"include_obfuscation": True, "include_usage": True}
    hidden = server.post(CHAT, {**body, "stream_options": options})
    events = [line for line in hidden.text.splitlines() if line.startswith("data: {")]
    padded = {len(line.encode()) - len("data: ") for line in events if '"obfuscation"' in line}
    assert len(sizes) > 2
    assert {size % 128 for size in padded} == {0}
    chunks = server.client.chat.completions.create(**body, stream_options=options)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == ask(HELLO, max_tokens=8).text
