"""What the server refuses, and that every refusal has the API's shape, names the field and can be read."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from patience import SECONDS

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def base(server: Any) -> str:
    return str(server.client.models.list().data[0].id)


def refused(reply: httpx.Response, status: int, param: str | None) -> str:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param, error
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    assert 10 < len(error["message"]) < 600
    return str(error["message"])


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"frobnicate": 1}, "frobnicate"),
    ({"frobnicate": None}, "frobnicate"),
    ({"temprature": 0.5}, "temprature"),
    ({"stream": True, "stream_options": {"include_usage": True, "x": 1}}, "stream_options.x"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": "yes"}, "stream"),
    ({"temperature": "0.5"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": 1e9}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 1.5}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"seed": 1.5}, "seed"),
    ({"seed": 2**70}, "seed"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": "2"}, "n"),
    ({"max_tokens": -5}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"stop": 5}, "stop"),
    ({"stop": ["a", 5]}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": ["x"] * 100}, "stop"),
    ({"stop_token_ids": [1, "a"]}, "stop_token_ids[1]"),
    ({"stop_token_ids": [100000]}, "stop_token_ids"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"100000": 1}}, "logit_bias"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"logit_bias": {"05": 1}}, "logit_bias"),
    ({"ignore_eos": 1}, "ignore_eos"),
    ({"model": 5}, "model"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("path", [CHAT, PLAIN])
def test_a_wrong_field_is_named(server: Any, base: str, path: str, fields: dict[str, Any], param: str) -> None:
    own = {"messages": MESSAGES} if path == CHAT else {"prompt": "Hello"}
    message = refused(server.post(path, {"model": base, **own, **fields}), 400, param)
    assert param.split(".")[-1] in message
    assert "Traceback" not in message and "pydantic" not in message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": ["Hello"]}, "messages[0]"),
        ({"messages": [{"content": "Hello"}]}, "messages[0].role"),
        ({"messages": [*MESSAGES, {"role": ""}]}, "messages[1].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["Hello"]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content[0].text"),
        ({"messages": [*MESSAGES, {"role": "user", "content": "\ud800"}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": "a", "name": 5}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": "a", "x": [1, float("inf")]}]}, "messages[0].x[1]"),
        ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "messages[0].function_call"),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0].audio"),
        ({"messages": [{"role": "assistant", "refusal": "No."}]}, "messages[0].refusal"),
        ({"messages": [{"role": "user", "content": "long " * 500}]}, "messages"),
        ({"messages": None}, "messages"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_completion_tokens": 3, "max_tokens": 4}, "max_tokens"),
        ({"response_format": "text"}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": 1}, "chat_template_kwargs"),
        ({"prompt": "Hello"}, "prompt"),
        ({"echo": True}, "echo"),
        ({"\ud800": 1}, None),
        ({"logit_bias": {"\ud800": 1}}, "logit_bias"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_wrong_chat_is_refused(server: Any, base: str, fields: dict[str, Any], param: str | None) -> None:
    for stream in (False, True):
        refused(server.post(CHAT, {"model": base, "messages": MESSAGES, "stream": stream, **fields}), 400, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [1.0]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": [100000]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": "long " * 500}, "prompt"),
        ({"prompt": ["a"] * 2000}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"echo": True, "prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"messages": MESSAGES}, "messages"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_completion_is_refused(server: Any, base: str, fields: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        refused(server.post(PLAIN, {"model": base, "prompt": "a", "stream": stream, **fields}), 400, param)


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_missing_field_is_named(server: Any, base: str, field: str) -> None:
    body = {"model": base, "messages": MESSAGES}
    del body[field]
    assert "required" in refused(server.post(CHAT, body), 400, field)


@pytest.mark.parametrize(
    "content",
    [
        *(b"{", b"", b"[1]", b'"text"', b"null", b"\xff\xfe", b"[" * 100_000, b'{"seed": ' + b"9" * 10_000 + b"}"),
        *(b'{"model": "a", "model": "b"}', b'{"model": "m", "messages": [{"role": "user", "role": "system"}]}'),
    ],
)
def test_a_body_that_is_no_object_is_refused(server: Any, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    refused(httpx.post(f"{server.url}{CHAT}", content=content, headers=headers, timeout=SECONDS), 400, None)


def test_numbers_that_are_not_are_refused(server: Any, base: str) -> None:
    body = json.dumps({"model": base, "messages": MESSAGES, "temperature": float("nan")})
    headers = {"Content-Type": "application/json"}
    refused(httpx.post(f"{server.url}{CHAT}", content=body, headers=headers, timeout=SECONDS), 400, "temperature")


def test_a_body_that_is_not_declared_as_json_is_refused(server: Any, base: str) -> None:
    body = json.dumps({"model": base, "messages": MESSAGES})
    reply = httpx.post(f"{server.url}{CHAT}", content=body, headers={"Content-Type": "text/plain"}, timeout=SECONDS)
    assert "application/json" in refused(reply, 400, None)


def test_a_huge_body_is_refused(server: Any, base: str) -> None:
    def endless() -> Any:
        for _ in range(9):
            yield b" " * 2**20

    headers = {"Content-Type": "application/json"}
    refused(httpx.post(f"{server.url}{CHAT}", content=endless(), headers=headers, timeout=SECONDS), 413, None)


def test_unknown_models_paths_and_methods(server: Any) -> None:
    reply = server.post(CHAT, {"model": "nosuch", "messages": MESSAGES})
    assert "tuned" in refused(reply, 404, "model")
    assert reply.json()["error"]["code"] == "model_not_found"
    refused(server.get("/v1/models/nosuch"), 404, "model")
    refused(server.get("/v1/nosuch"), 404, None)
    assert server.get("/v1/nosuch").json()["error"]["code"] == "unknown_url"
    reply = server.get(CHAT)
    refused(reply, 405, None)
    assert reply.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"frobnicate": 1}, "unknown_parameter"),
        ({"messages": None}, "missing_required_parameter"),
        ({"messages": [{"content": "a"}]}, "missing_required_parameter"),
        ({"temperature": "warm"}, "invalid_type"),
        ({"user": 5}, "invalid_type"),
        ({"temperature": 1e9}, "invalid_value"),
        ({"n": 0}, "invalid_value"),
        ({"audio": {"voice": "alloy"}}, "unsupported_parameter"),
        ({"model": "nosuch"}, "model_not_found"),
        ({"messages": [{"role": "user", "content": "long " * 500}]}, "context_length_exceeded"),
        ({"max_tokens": 10**6}, "context_length_exceeded"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_code_says_what_kind_of_fault_it_is(server: Any, base: str, fields: dict[str, Any], code: str) -> None:
    reply = server.post(CHAT, {"model": base, "messages": MESSAGES, **fields})
    assert reply.json()["error"]["code"] == code, reply.text


def test_the_clients_own_exceptions(server: Any, base: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.client.chat.completions.create(model=base, messages=MESSAGES, extra_body={"frobnicate": 1})
    assert caught.value.param == "frobnicate"
    with pytest.raises(openai.NotFoundError) as unknown:
        server.client.chat.completions.create(model="nosuch", messages=MESSAGES, stream=True)
    assert unknown.value.code == "model_not_found"


def test_a_refused_choice_leaves_the_others_alone(server: Any, base: str) -> None:
    """A call with one prompt too long is refused whole; the server goes on."""
    refused(server.post(PLAIN, {"model": base, "prompt": ["a", "long " * 500], "max_tokens": 500}), 400, "prompt")
    assert server.post(PLAIN, {"model": base, "prompt": "a"}).status_code == 200
