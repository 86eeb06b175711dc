"""/v1/messages through the `anthropic` client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from patience import SECONDS

anthropic = pytest.importorskip("anthropic", reason="needs the anthropic client: pip install landrace[test]")

USER = {"role": "user", "content": "How is the weather?"}
THINK = {"type": "enabled", "budget_tokens": 100}


@pytest.fixture(scope="module")
def client(reciting: Any) -> Any:
    return anthropic.Anthropic(base_url=reciting.url, api_key="none", max_retries=0, timeout=SECONDS)


@pytest.fixture(scope="module")
def tools(reciting: Any) -> list[dict[str, Any]]:
    return [
        {"name": "get_weather", "description": "The weather.", "input_schema": reciting.schema},
        {"name": "stop", "input_schema": {"type": "object", "properties": {}}, "cache_control": {"type": "ephemeral"}},
    ]


def call(reciting: Any, *, temperature: float = 0, **fields: Any) -> dict[str, Any]:
    """The client has no temperature, the API has."""
    extra = {"temperature": temperature}
    return {"model": reciting.calls, "messages": [USER], "max_tokens": 300, "extra_body": extra, **fields}


def body(reciting: Any, **fields: Any) -> dict[str, Any]:
    return {"model": reciting.calls, "messages": [USER], "max_tokens": 300, "temperature": 0, **fields}


def test_a_message_thinks_speaks_and_calls(reciting: Any, client: Any, tools: Any) -> None:
    fields = call(reciting, tools=tools, thinking=THINK)
    message = client.messages.create(**fields)
    thought, said, use = message.content
    assert (thought.type, thought.thinking) == ("thinking", "Hm So")
    assert (said.type, said.text) == ("text", "Let me look.")
    assert (use.type, use.name, use.input) == ("tool_use", "get_weather", reciting.arguments)
    assert (message.type, message.role, message.model) == ("message", "assistant", reciting.calls)
    assert (message.stop_reason, message.stop_sequence) == ("tool_use", None)
    usage = message.usage
    count = client.messages.count_tokens(model=reciting.calls, messages=[USER], tools=tools, thinking=THINK)
    assert usage.input_tokens + usage.cache_read_input_tokens == count.input_tokens
    assert usage.output_tokens > 5 and usage.output_tokens_details.thinking_tokens == 2
    with client.messages.stream(**fields) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop" and "message_delta" in kinds
    assert [block.type for block in streamed.content] == ["thinking", "text", "tool_use"]
    assert (streamed.content[0].thinking, streamed.content[1].text) == ("Hm So", "Let me look.")
    assert streamed.content[0].signature == streamed.id
    assert streamed.content[2].input == reciting.arguments
    assert streamed.stop_reason == "tool_use"
    assert streamed.usage.output_tokens == usage.output_tokens
    assert streamed.usage.input_tokens + streamed.usage.cache_read_input_tokens == count.input_tokens


def test_raw_events_are_numbered_blocks(reciting: Any, client: Any, tools: Any) -> None:
    events = list(client.messages.create(stream=True, **call(reciting, tools=tools, thinking=THINK)))
    starts = [event.index for event in events if event.type == "content_block_start"]
    stops = [event.index for event in events if event.type == "content_block_stop"]
    assert starts == stops == [0, 1, 2]
    deltas = [event.delta for event in events if event.type == "content_block_delta"]
    assert "".join(delta.partial_json for delta in deltas if delta.type == "input_json_delta") == json.dumps(
        reciting.arguments, ensure_ascii=False
    )


def test_a_conversation_goes_on(reciting: Any, client: Any, tools: Any) -> None:
    fields = call(reciting, tools=tools, thinking=THINK)
    first = client.messages.create(**fields)
    result = {"type": "tool_result", "tool_use_id": first.content[-1].id, "content": "Rain."}
    for content in (first.content, [block.model_dump() for block in first.content]):
        turns = [USER, {"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
        again = client.messages.create(**{**fields, "messages": turns})
        assert again.stop_reason == "tool_use"
    told = {"role": "user", "content": [{**result, "content": [{"type": "text", "text": "Rain."}]}]}
    more = {"role": "user", "content": [{"type": "text", "text": "And now?", "cache_control": {"type": "ephemeral"}}]}
    parts = [USER, {"role": "assistant", "content": first.content}, told, more]
    assert client.messages.create(**{**fields, "messages": parts}).stop_reason == "tool_use"


def test_the_prompt_is_that_of_the_same_chat(reciting: Any, client: Any) -> None:
    """Turns of one role are one; what a tool answers and what is said beside it are messages of their own."""
    use = {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}
    count = client.messages.count_tokens(
        model=reciting.calls,
        system=[{"type": "text", "text": "Be brief."}],
        messages=[
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": [{"type": "text", "text": "Yes"}, use]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "5", "is_error": True},
                    {"type": "text", "text": "Go"},
                ],
            },
        ],
        tools=[{"name": "f", "input_schema": {"type": "object"}}],
        thinking={"type": "adaptive"},
    )
    function = {"name": "f", "arguments": {"a": 1}}
    same = {
        "model": reciting.calls,
        "max_tokens": 1,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": "Yes", "tool_calls": [{"id": "c1", "function": function}]},
            {"role": "tool", "tool_call_id": "c1", "content": "Error: 5"},
            {"role": "user", "content": "Go"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    }
    chat = reciting.server.post("/v1/chat/completions", same).json()
    assert chat["usage"]["prompt_tokens"] == count.input_tokens


def test_nobody_thinks_who_is_not_asked_to(reciting: Any, client: Any) -> None:
    for fields in ({}, {"thinking": {"type": "disabled"}}):
        message = client.messages.create(**call(reciting, **fields))
        assert [block.model_dump(exclude_none=True) for block in message.content] == [{"type": "text", "text": "Sure."}]
        assert message.stop_reason == "end_turn"
    hidden = client.messages.create(**call(reciting, thinking={**THINK, "display": "omitted"}))
    assert (hidden.content[0].type, hidden.content[0].thinking) == ("thinking", "")
    assert hidden.usage.output_tokens_details.thinking_tokens == 2


def test_a_budget_ends_a_thought(reciting: Any, client: Any) -> None:
    fields = call(reciting, model=reciting.endless, thinking={"type": "enabled", "budget_tokens": 3})
    thought, said = client.messages.create(**fields).content
    assert (thought.thinking, said.text) == ("Hm So Hm", "Sure.")


@pytest.mark.parametrize("streamed", [False, True])
def test_why_an_answer_ended(reciting: Any, client: Any, streamed: bool) -> None:
    def ended(**fields: Any) -> Any:
        if not streamed:
            return client.messages.create(**call(reciting, **fields))
        with client.messages.stream(**call(reciting, **fields)) as stream:
            return stream.get_final_message()

    stopped = ended(stop_sequences=["nothing", "ure"])
    assert (stopped.stop_reason, stopped.stop_sequence, stopped.content[0].text) == ("stop_sequence", "ure", "S")
    thinks = {"model": reciting.endless, "thinking": {"type": "adaptive"}}
    assert ended(max_tokens=3, **thinks).stop_reason == "max_tokens"
    full = ended(max_tokens=5000, **thinks)
    assert full.stop_reason == "model_context_window_exceeded"
    assert full.usage.output_tokens > 1500


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "any"},
        {"type": "any", "disable_parallel_tool_use": True},
        {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
    ],
)
def test_a_call_is_forced(reciting: Any, client: Any, tools: Any, choice: Any) -> None:
    fields = call(reciting, tools=tools, tool_choice=choice, temperature=1, max_tokens=1500)
    message = client.messages.create(**fields)
    uses = [block for block in message.content if block.type == "tool_use"]
    assert message.stop_reason == "tool_use" and uses
    assert len(uses) == 1 or "disable_parallel_tool_use" not in choice
    assert choice["type"] == "any" or {use.name for use in uses} == {"get_weather"}


def test_no_tools(reciting: Any, client: Any, tools: Any) -> None:
    message = client.messages.create(**call(reciting, tools=tools, tool_choice={"type": "none"}, thinking=THINK))
    assert message.stop_reason == "end_turn"
    assert message.content[-1].text.startswith("Let me look.<tool_call>")


def test_structured_output(reciting: Any, client: Any) -> None:
    form = {"type": "json_schema", "schema": {"enum": ["red", "blue"]}}
    message = client.messages.create(**call(reciting, output_config={"format": form}))
    assert json.loads(message.content[0].text) in ("red", "blue")


def test_errors_are_the_clients_own(reciting: Any, client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(**call(reciting, model="nobody"))
    assert missing.value.body["type"] == "error"
    assert missing.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(**call(reciting, temperature=-1))
    assert refused.value.body["error"]["type"] == "invalid_request_error"
    assert "temperature" in refused.value.body["error"]["message"]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": None}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "image"),
    ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, "document"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}]}, "content[0].x"),
    ({"messages": [{"role": "assistant", "content": [{"type": "redacted_thinking", "data": "a"}]}]}, "redacted"),
    ({"messages": [USER, {"role": "assistant", "content": "And"}]}, "messages[1]"),
    ({"system": [{"type": "image"}]}, "system[0]"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "often"}}, "thinking.type"),
    ({"output_config": {"effort": "high"}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {"not": {}}}}}, "not"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tool_choice": {"type": "required"}}, "tool_choice.type"),
    ({"mcp_servers": [{"url": "a"}]}, "mcp_servers"),
    ({"container": "a"}, "container"),
    ({"service_tier": "batch"}, "service_tier"),
    ({"stop_sequences": [""]}, "top"),
    ({"seed": 5}, "seed"),
]


@pytest.mark.parametrize(("fields", "named"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_cannot_be_honoured_is_named(reciting: Any, fields: dict[str, Any], named: str) -> None:
    reply = reciting.server.post("/v1/messages", body(reciting, **fields))
    assert reply.status_code == 400, reply.text
    told = reply.json()
    assert set(told) == {"type", "error"} and set(told["error"]) == {"type", "message"}
    assert named in told["error"]["message"]


def test_what_asks_for_nothing_is_taken(reciting: Any) -> None:
    fields = {
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "cache_control": {"type": "ephemeral"},
        "mcp_servers": [],
        "context_management": {"edits": []},
        "tools": None,
        "top_k": 0,
    }
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "a,b", "x-api-key": "none"}
    url = f"{reciting.url}/v1/messages?beta=true"
    reply = httpx.post(url, json=body(reciting, **fields), headers=headers, timeout=SECONDS)
    assert reply.status_code == 200, reply.text


def test_other_paths_have_their_own_words(reciting: Any) -> None:
    server = reciting.server
    assert server.get("/v1/messages").json()["type"] == "error"
    assert server.post("/v1/messages", [1]).json()["error"]["type"] == "invalid_request_error"
    assert "param" in server.post("/v1/chat/completions", [1]).json()["error"]


def test_a_coders_prompt(reciting: Any, client: Any) -> None:
    """A long system prompt in blocks and many tools, as coding agents send them, are kept for the next turn."""
    system = [
        {"type": "text", "text": "You help with code. " * 20},
        {"type": "text", "text": "Keep to the style.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ]
    tools = [
        {"name": f"tool_{n}", "description": "Does it.", "input_schema": {"type": "object", "properties": {}}}
        for n in range(9)
    ]
    fields = call(reciting, system=system, tools=tools, metadata={"user_id": "u"})
    first, second = (client.messages.create(**fields) for _ in range(2))
    assert first.usage.cache_read_input_tokens < 100
    assert second.usage.cache_read_input_tokens > 1000
    assert second.usage.input_tokens < 100
