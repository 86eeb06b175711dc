"""The other APIs take whatever JSON can write: an answer, or a refusal in the words of the API; never a failure."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landrace.server.anthropic.schema import CountRequest, MessagesRequest
from landrace.server.fields import Fields
from landrace.server.ollama.embed import EmbedRequest
from landrace.server.ollama.schema import ChatRequest, GenerateRequest, Options
from landrace.server.responses.schema import ResponseRequest

HELLO = [{"role": "user", "content": "a"}]
FORMS: dict[str, tuple[type[Fields], dict[str, Any]]] = {
    "/v1/responses": (ResponseRequest, {"input": "a", "max_output_tokens": 2}),
    "/v1/messages": (MessagesRequest, {"messages": HELLO, "max_tokens": 2}),
    "/v1/messages/count_tokens": (CountRequest, {"messages": HELLO}),
    "/api/chat": (ChatRequest, {"messages": HELLO, "options": {"num_predict": 2}}),
    "/api/generate": (GenerateRequest, {"prompt": "a", "options": {"num_predict": 2}}),
    "/api/embed": (EmbedRequest, {"input": "a"}),
}
EXTREMES: list[Any] = [
    *(0, -0.0, 1, 1.0, -1, 0.5, 1e-46, 1e308, 2**31, 2**64, 10**400, float("nan"), float("inf"), True, False, None),
    *("", "a", "\u0000", "\ud800", "none", "auto", "json", "<|im_end|>", "x" * 300),
    *([], {}, [None], [1], ["a"], [[]], [{}], {"": 1}, {"type": "text"}, {"type": []}, {"type": {}}, {"role": "user"}),
    *([{"type": "text"}], [{"type": "function"}], [{"role": "user"}], {"type": "function", "function": []}),
    *({"type": "allowed_tools"}, {"format": []}, {"effort": 5}, [{"role": "assistant", "tool_calls": [5]}]),
]
KINDS = [
    *("message", "reasoning", "function_call", "function_call_output", "text", "tool_use", "tool_result", "thinking"),
    *("input_text", "function", "allowed_tools", "enabled", "json_schema"),
]
NAMES = [
    *(
        "type",
        "role",
        "content",
        "text",
        "name",
        "id",
        "call_id",
        "arguments",
        "output",
        "summary",
        "input",
        "function",
    ),
    *("tool_calls", "tool_use_id", "thinking", "parameters", "input_schema", "schema", "format", "tools", "mode"),
]
values = st.recursive(
    st.sampled_from([*EXTREMES, *KINDS, "user", "assistant", "tool"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(NAMES), inner, min_size=1, max_size=5)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def base(server: Any) -> str:
    return str(server.client.models.list().data[0].id)


def check(path: str, reply: httpx.Response) -> None:
    assert reply.status_code in (200, 400, 404), reply.text
    if reply.status_code == 200:
        return
    error = reply.json()["error"]
    message = error if path.startswith("/api") else error["message"]
    assert message.endswith((".", "...")), message
    assert "pydantic" not in message and "Traceback" not in message


@pytest.mark.parametrize("path", FORMS)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_any_fields(server: Any, base: str, path: str, data: st.DataObject) -> None:
    form, own = FORMS[path]
    names = sorted({*form.model_fields, *form.neutral, "unknown"} - {"model"})
    given = data.draw(st.dictionaries(st.sampled_from(names), values, max_size=3))
    check(path, server.post(path, {"model": base, **own, **given}))


@pytest.mark.parametrize("path", FORMS)
def test_every_field_with_every_extreme(server: Any, base: str, path: str) -> None:
    form, own = FORMS[path]
    for name in sorted({*form.model_fields, *form.neutral}):
        for value in EXTREMES:
            check(path, server.post(path, {"model": base, **own, name: value}))
    for name in sorted({*Options.model_fields, *Options.neutral}) if "options" in form.model_fields else ():
        for value in EXTREMES:
            check(path, server.post(path, {"model": base, **own, "options": {"num_predict": 2, name: value}}))
