"""Ollama's API through the `ollama` client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from patience import SECONDS

ollama = pytest.importorskip("ollama", reason="needs the ollama client: pip install landrace[test]")

USER = {"role": "user", "content": "How is the weather?"}
GREEDY = {"temperature": 0, "num_predict": 300}


@pytest.fixture(scope="module")
def client(reciting: Any) -> Any:
    return ollama.Client(host=reciting.url, timeout=SECONDS)


@pytest.fixture(scope="module")
def tools(reciting: Any) -> list[dict[str, Any]]:
    function = {"name": "get_weather", "description": "The weather.", "parameters": reciting.schema}
    return [{"type": "function", "function": function}]


def test_a_chat_thinks_speaks_and_calls(reciting: Any, client: Any, tools: Any) -> None:
    fields = {"messages": [USER], "tools": tools, "options": GREEDY, "think": True, "keep_alive": "5m"}
    reply = client.chat(reciting.calls, **fields)
    assert (reply.message.role, reply.message.thinking, reply.message.content) == ("assistant", "Hm So", "Let me look.")
    (call,) = reply.message.tool_calls
    assert (call.function.name, dict(call.function.arguments)) == ("get_weather", reciting.arguments)
    assert (reply.done, reply.done_reason, reply.model) == (True, "stop", reciting.calls)
    assert reply.prompt_eval_count > 100 and reply.eval_count > 5
    assert reply.total_duration >= reply.eval_duration > 0
    assert reply.prompt_eval_duration > 0 and reply.load_duration == 0
    chunks = list(client.chat(reciting.calls, stream=True, **fields))
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert "".join(chunk.message.thinking or "" for chunk in chunks) == "Hm So"
    assert "".join(chunk.message.content or "" for chunk in chunks) == "Let me look."
    calls = [call for chunk in chunks for call in chunk.message.tool_calls or ()]
    assert [dict(call.function.arguments) for call in calls] == [reciting.arguments]
    assert (chunks[-1].eval_count, chunks[-1].done_reason) == (reply.eval_count, "stop")


def test_a_conversation_goes_on(reciting: Any, client: Any, tools: Any) -> None:
    said = client.chat(reciting.calls, messages=[USER], tools=tools, options=GREEDY).message
    for message in (said, said.model_dump()):
        turns = [USER, message, {"role": "tool", "tool_name": "get_weather", "content": "Rain."}]
        assert client.chat(reciting.calls, messages=turns, tools=tools, options=GREEDY).message.tool_calls


def test_the_prompt_is_that_of_the_same_chat(reciting: Any, client: Any) -> None:
    calls = [{"function": {"name": name, "arguments": {"a": 1}}} for name in ("f", "g")]
    turns = [
        USER,
        {"role": "assistant", "content": "", "thinking": "Aha", "tool_calls": calls},
        {"role": "tool", "tool_name": "g", "content": "6"},
        {"role": "tool", "content": "5"},
    ]
    reply = client.chat(reciting.calls, messages=turns, options={"num_predict": 1})
    named = [{"id": f"call_{n}", **call} for n, call in enumerate(calls)]
    body = {
        "model": reciting.calls,
        "max_tokens": 1,
        "messages": [
            USER,
            {"role": "assistant", "content": "", "reasoning": "Aha", "tool_calls": named},
            {"role": "tool", "name": "g", "tool_call_id": "call_1", "content": "6"},
            {"role": "tool", "tool_call_id": "call_0", "content": "5"},
        ],
    }
    chat = reciting.server.post("/v1/chat/completions", body).json()
    assert chat["usage"]["prompt_tokens"] == reply.prompt_eval_count


def test_a_prompt_is_answered_or_gone_on_with(reciting: Any, client: Any) -> None:
    reply = client.generate(reciting.calls, prompt="Hello", system="Be brief.", options=GREEDY)
    assert (reply.thinking, reply.done_reason) == ("Hm So", "stop")
    assert reply.response.startswith("Let me look.<tool_call>")
    plain = client.generate(reciting.calls, prompt="Hello", options=GREEDY, think=False)
    assert (plain.response, plain.thinking) == ("Sure.", None)
    raw = client.generate(reciting.calls, prompt="Well,\n", raw=True, options=GREEDY)
    assert (raw.response, raw.prompt_eval_count) == ("Sure.", 6)
    chunks = list(client.generate(reciting.calls, prompt="Well,\n", raw=True, options=GREEDY, stream=True))
    assert "".join(chunk.response for chunk in chunks) == "Sure." and chunks[-1].done


def test_structured_output(reciting: Any, client: Any) -> None:
    form = {
        "type": "object",
        "properties": {"name": {"enum": ["red", "blue"]}},
        "required": ["name"],
        "additionalProperties": False,
    }
    said = client.chat(reciting.calls, messages=[USER], format=form, options=GREEDY).message.content
    assert json.loads(said)["name"] in ("red", "blue")
    assert client.generate(reciting.calls, prompt="a", format="json", options=GREEDY).response.startswith("{")


def test_options_reach_the_engine(reciting: Any, client: Any) -> None:
    for options, reason, text in (
        ({"num_predict": 3}, "length", ""),
        ({"stop": ["me"]}, "stop", "Let "),
        ({"num_ctx": 64}, "length", None),
        ({"num_predict": -1, "seed": -1, "num_gpu": 99, "use_mmap": True, "repeat_last_n": -1}, "stop", None),
    ):
        model = reciting.endless if "num_ctx" in options else reciting.calls
        reply = client.chat(model, messages=[USER], options={"temperature": 0, **options})
        assert reply.done_reason == reason
        assert text is None or reply.message.content == text
        assert "num_ctx" not in options or reply.prompt_eval_count + reply.eval_count == 64
    drawn = {"seed": 5, "temperature": 1.5, "top_k": 5, "top_p": 0.9, "min_p": 0.01, "repeat_penalty": 1.1}
    assert client.chat(reciting.calls, messages=[USER], options={**GREEDY, **drawn}).done


def test_what_is_served(reciting: Any, client: Any) -> None:
    assert [model.model for model in client.list().models] == [reciting.calls, reciting.endless]
    running = client.ps().models
    assert [(model.name, model.context_length) for model in running] == [
        (reciting.calls, 2000),
        (reciting.endless, 2000),
    ]
    shown = client.show(reciting.calls)
    assert {"completion", "tools", "thinking"} <= set(shown.capabilities)
    assert shown.modelinfo["landrace.context_length"] == 2000
    assert "<|im_start|>" in shown.template
    assert reciting.server.get("/api/version").json()["version"]


def test_a_name_may_have_a_tag_and_a_call_may_only_open(reciting: Any, client: Any) -> None:
    assert client.chat(f"{reciting.calls}:latest", messages=[]).done_reason == "load"
    assert client.generate(reciting.calls).done_reason == "load"


def test_errors_are_the_clients_own(reciting: Any, client: Any) -> None:
    with pytest.raises(ollama.ResponseError) as missing:
        client.chat("nobody", messages=[USER])
    assert missing.value.status_code == 404 and "nobody" in missing.value.error
    with pytest.raises(ollama.ResponseError) as refused:
        client.chat(reciting.calls, messages=[USER], options={"num_ctx": 4096}, stream=True).__next__()
    assert refused.value.status_code == 400 and "num_ctx" in refused.value.error


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("chat", {"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role"),
    ("chat", {"messages": [{"role": "user", "content": "a", "images": ["x"]}]}, "messages[0].images"),
    ("chat", {"messages": [{"role": "user"}]}, "messages[0].content"),
    ("chat", {"messages": [USER, {"role": "user", "content": "a", "tool_calls": [{}]}]}, "messages[1].tool_calls"),
    ("chat", {"messages": [USER], "tools": [{"type": "function"}]}, "tools[0].function"),
    ("chat", {"messages": [USER], "think": "high"}, "think"),
    ("chat", {"messages": [USER], "think": 5}, "think"),
    ("chat", {"messages": [USER], "format": "xml"}, "format"),
    ("chat", {"messages": [USER], "format": {"not": {}}}, "format"),
    ("chat", {"messages": [USER], "options": {"temperature": -1}}, "options.temperature"),
    ("chat", {"messages": [USER], "options": {"repeat_penalty": 0}}, "options.repeat_penalty"),
    ("chat", {"messages": [USER], "options": {"mirostat": 2}}, "options.mirostat"),
    ("chat", {"messages": [USER], "options": {"num_gpu": "all"}}, "options.num_gpu"),
    ("chat", {"messages": [USER], "options": {"cleverness": 1}}, "options.cleverness"),
    ("chat", {"messages": [USER], "logprobs": True}, "logprobs"),
    ("chat", {"messages": [USER], "keep_alive": []}, "keep_alive"),
    ("chat", {"messages": [{"role": "user", "content": "long " * 3000}]}, "messages"),
    ("generate", {"prompt": "a", "template": "{{ .Prompt }}"}, "template"),
    ("generate", {"prompt": "a", "suffix": "b"}, "suffix"),
    ("generate", {"prompt": "a", "context": [1]}, "context"),
    ("generate", {"prompt": "a", "images": ["x"]}, "images"),
    ("generate", {"prompt": "a", "raw": True, "system": "b"}, "system"),
    ("generate", {"prompt": "long " * 3000, "raw": True}, "prompt"),
]


@pytest.mark.parametrize(("path", "fields", "named"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_cannot_be_honoured_is_named(reciting: Any, path: str, fields: dict[str, Any], named: str) -> None:
    reply = reciting.server.post(f"/api/{path}", {"model": reciting.calls, **fields})
    assert reply.status_code == 400, reply.text
    assert list(reply.json()) == ["error"] and named in reply.json()["error"]


def test_json_need_not_be_said_but_no_page_may_send_it(reciting: Any) -> None:
    content = json.dumps({"model": reciting.calls, "prompt": "a", "options": GREEDY}).encode()
    url, http = f"{reciting.url}/api/generate", reciting.server.http
    assert http.post(url, content=content).status_code == 200
    headers = {"Origin": "https://elsewhere.example", "Content-Type": "text/plain"}
    assert http.post(url, content=content, headers=headers).status_code == 400
