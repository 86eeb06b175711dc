"""Whatever JSON can write: an answer, or a refusal in the API's shape that names what was sent; never a failure."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landrace.server.openai.schema import ChatRequest, CompletionRequest
from landrace.server.openai.unsupported import OF_A_CALL, OF_A_MESSAGE

PATHS = {"/v1/chat/completions": ChatRequest, "/v1/completions": CompletionRequest}
EXTREMES: list[Any] = [
    *(0, -0.0, 1, 1.0, 16.0, -1, 2, 20, 0.5, 1e-5, 1e-7, 1e-46, 5e-324, 1e308, -1e308, 100, 2**31, 2**53, 2**63, 2**64),
    *(-(2**63), 10**40, 10**400, float("nan"), float("inf"), float("-inf"), True, False, None),
    *("", "a", "\u0000", "\ud800", "a\udfff", "\U0001f600", "none", "auto", "5", "<|im_end|>", "x" * 300),
    *([], {}, [None], [1], ["a"], [[]], [[1]], [""], [-1], [10**9], {"": 1}, {"5": 1}, {"5": 1e999}, {"type": "text"}),
]
values = st.one_of(
    st.sampled_from(EXTREMES),
    st.recursive(
        st.one_of(st.sampled_from(EXTREMES), st.floats(), st.integers(), st.text(max_size=8)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5) | st.just("\ud800"), inner, max_size=3)
        ),
        max_leaves=5,
    ),
)
parts = st.fixed_dictionaries({}, optional={"type": st.just("text") | values, "text": st.text(max_size=5) | values})
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool", "developer"]) | values},
        optional={
            "content": st.text(max_size=5) | st.lists(parts, max_size=2) | values,
            "tool_calls": values,
            **dict.fromkeys([*OF_A_MESSAGE, "name", "tool_call_id", "anything"], values),
        },
    ),
    max_size=3,
)
BODIES = {
    path: st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys([*kind.model_fields, *OF_A_CALL, "unknown", ""], values),
            "model": st.just("model") | values,
            "messages" if kind is ChatRequest else "prompt": (messages if kind is ChatRequest else st.text()) | values,
        },
    )
    for path, kind in PATHS.items()
}
FEW = ("n", "best_of")
"""A call may ask for a hundred answers, which is right and takes long."""


@pytest.fixture(scope="module")
def base(server: Any) -> str:
    return str(server.client.models.list().data[0].id)


def check(reply: httpx.Response, sent: dict[str, Any] | None) -> None:
    assert reply.headers["x-request-id"]
    if reply.status_code == 200:
        return
    if reply.status_code == 504:
        assert sent is not None and "timeout_seconds" in sent and reply.json()["error"]["code"] == "deadline_exceeded"
        return
    assert reply.status_code in (400, 404), reply.text
    assert list(reply.json()) == ["error"]
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["code"] and error["message"].endswith((".", "...")), error
    assert "pydantic" not in error["message"] and "Traceback" not in error["message"]
    if error["param"]:
        name = re.split(r"[.\[]", error["param"])[0]
        assert sent is not None and (name in sent or error["code"] == "missing_required_parameter"), error


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=250)
@given(data=st.data())
def test_any_fields(server: Any, base: str, path: str, data: st.DataObject) -> None:
    body = data.draw(BODIES[path])
    body = {name: 2 if name in FEW and type(value) is int else value for name, value in body.items()}
    if body.get("model") == "model" or "model" not in body:
        body["model"] = base
    if "max_tokens" not in body or body["max_tokens"] is None:
        body["max_tokens"] = 2
    own = ("messages", [{"role": "user", "content": "a"}]) if "chat" in path else ("prompt", "a")
    body.setdefault(*own)
    check(server.post(path, body), body)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", EXTREMES, ids=lambda value: ascii(value)[:30])
def test_every_field_with_every_extreme(server: Any, base: str, path: str, value: Any) -> None:
    kind = PATHS[path]
    own = {"messages": [{"role": "user", "content": "a"}]} if kind is ChatRequest else {"prompt": "a"}
    for name in (*kind.model_fields, *OF_A_CALL):
        body = {"model": base, "max_tokens": 1, **own, name: value}
        check(server.post(path, body), body)


@settings(max_examples=150)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes(server: Any, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    reply = server.http.post(f"{server.url}/v1/completions", content=content, headers=headers)
    assert reply.status_code == 400
    check(reply, None)


@pytest.mark.parametrize(
    "written",
    [
        *('{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"\\udfff": 1}', '{"a": 1, "a": 1}'),
        *('{"a": {"b": 1, "b": 2}}', '{"a": ' + "[" * 70 + "]" * 70 + "}", '{"a": ' + '{"b": ' * 70 + "1" + "}" * 71),
        *('{"a": ' + "9" * 5000 + "}", '{"a": 01}', '{"a": "\t"}', "{'a': 1}", '{"a": 1}{', "\ufeff{}"),
    ],
    ids=lambda written: ascii(written)[:30],
)
def test_what_is_no_json_or_says_nothing_is_refused(server: Any, written: str) -> None:
    headers = {"Content-Type": "application/json"}
    reply = server.http.post(f"{server.url}/v1/completions", content=written.encode(), headers=headers)
    assert reply.status_code == 400
    check(reply, {"a": 1})


@pytest.mark.parametrize(
    "media_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""]
)
def test_other_media_types_are_refused(server: Any, base: str, media_type: str | None) -> None:
    content = json.dumps({"model": base, "prompt": "a", "max_tokens": 1})
    for kind, status in ((media_type, 400), ("application/json; charset=utf-8", 200), ("application/vnd.a+json", 200)):
        headers = {} if kind is None else {"Content-Type": kind}
        reply = server.http.post(f"{server.url}/v1/completions", content=content, headers=headers)
        assert reply.status_code == status
        check(reply, None)
