"""/v1/responses through the `openai` client."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pytest
from patience import SECONDS
from pydantic import BaseModel

QUESTION = "How is the weather?"


class Colour(BaseModel):
    name: Literal["red", "blue"]


@pytest.fixture(scope="module")
def client(reciting: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{reciting.url}/v1", api_key="none", max_retries=0, timeout=SECONDS)


@pytest.fixture(scope="module")
def tools(reciting: Any) -> list[dict[str, Any]]:
    return [
        {"type": "function", "name": "get_weather", "description": "The weather.", "parameters": reciting.schema},
        {"type": "function", "name": "stop", "parameters": {"type": "object", "properties": {}}, "strict": None},
    ]


def asked(reciting: Any, **fields: Any) -> dict[str, Any]:
    return {
        "model": reciting.calls,
        "input": QUESTION,
        "max_output_tokens": 300,
        "temperature": 0,
        "store": False,
        **fields,
    }


def test_a_response_thinks_speaks_and_calls(reciting: Any, client: openai.OpenAI, tools: Any) -> None:
    fields = asked(reciting, tools=tools, instructions="Be brief.", metadata={"a": "b"})
    response = client.responses.create(**fields)
    thought, message, call = response.output
    assert (thought.type, thought.content[0].text, thought.summary) == ("reasoning", "Hm So", [])
    assert (message.type, message.role, response.output_text) == ("message", "assistant", "Let me look.")
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", reciting.arguments)
    assert (response.status, response.error, response.incomplete_details) == ("completed", None, None)
    assert (response.instructions, response.metadata, response.store) == ("Be brief.", {"a": "b"}, False)
    assert response.usage.output_tokens_details.reasoning_tokens == 2
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    with client.responses.stream(**fields) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
    assert list(dict.fromkeys(kinds[2:-1])) == [
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
    ]
    told = {
        kind: "".join(event.delta for event in events if event.type == kind)
        for kind in ("response.reasoning_text.delta", "response.output_text.delta")
    }
    assert list(told.values()) == ["Hm So", "Let me look."]
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert json.loads(final.output[2].arguments) == reciting.arguments
    assert final.usage.output_tokens == response.usage.output_tokens
    added = [event.item.id for event in events if event.type == "response.output_item.added"]
    assert [item.id for item in final.output] == added


def test_a_conversation_goes_on(reciting: Any, client: openai.OpenAI, tools: Any) -> None:
    first = client.responses.create(**asked(reciting, tools=tools))
    call = first.output[-1]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    for items in (first.output, [item.model_dump() for item in first.output]):
        turns = [{"role": "user", "content": QUESTION}, *items, result]
        again = client.responses.create(**asked(reciting, tools=tools, input=turns))
        assert again.output[-1].type == "function_call"


def test_the_prompt_is_that_of_the_same_chat(reciting: Any, client: openai.OpenAI) -> None:
    """What an assistant says and calls in one turn is one message, whatever items it came in."""
    items: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi."}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Aha"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Yes", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "5"}]},
        {"type": "function_call_output", "call_id": "c2", "output": "6"},
        {"role": "assistant", "content": "One."},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Go"},
    ]
    response = client.responses.create(model=reciting.calls, input=items, instructions="Be brief.", max_output_tokens=1)
    calls = [
        {"id": one, "function": {"name": "f", "arguments": arguments}}
        for one, arguments in (("c1", '{"a": 1}'), ("c2", "{}"))
    ]
    body = {
        "model": reciting.calls,
        "max_tokens": 1,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": "Yes", "reasoning": "Aha", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c1", "content": "5"},
            {"role": "tool", "tool_call_id": "c2", "content": "6"},
            {"role": "assistant", "content": "One."},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "Go"},
        ],
    }
    chat = reciting.server.post("/v1/chat/completions", body).json()
    assert chat["usage"]["prompt_tokens"] == response.usage.input_tokens


def test_an_answer_that_was_cut_is_incomplete(reciting: Any, client: openai.OpenAI) -> None:
    fields = asked(reciting, model=reciting.endless, max_output_tokens=5)
    response = client.responses.create(**fields)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    *_, last = client.responses.create(stream=True, **fields)
    assert (last.type, last.response.status) == ("response.incomplete", "incomplete")
    assert last.response.output[-1].status == "incomplete"


def test_how_much_to_think(reciting: Any, client: openai.OpenAI) -> None:
    response = client.responses.create(**asked(reciting, reasoning={"effort": "none"}))
    assert [item.type for item in response.output] == ["message"]
    assert response.output_text == "Sure."
    limited = client.responses.create(**asked(reciting, model=reciting.endless, extra_body={"thinking_budget": 3}))
    assert (limited.output[0].content[0].text, limited.output_text) == ("Hm So Hm", "Sure.")


def test_structured_output(reciting: Any, client: openai.OpenAI) -> None:
    parsed = client.responses.parse(text_format=Colour, **asked(reciting, temperature=1))
    assert parsed.output_parsed.name in ("red", "blue")
    with client.responses.stream(text_format=Colour, **asked(reciting, temperature=1)) as stream:
        assert stream.get_final_response().output_parsed.name in ("red", "blue")
    form: Any = {"format": {"type": "json_object"}}
    assert client.responses.create(**asked(reciting, text=form)).output_text.startswith("{")


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "name": "get_weather"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]},
    ],
    ids=["required", "named", "allowed"],
)
def test_a_call_is_forced(reciting: Any, client: openai.OpenAI, tools: Any, choice: Any) -> None:
    fields = asked(reciting, tools=tools, tool_choice=choice, temperature=1, parallel_tool_calls=False)
    response = client.responses.create(**{**fields, "max_output_tokens": 1500})
    calls = [item for item in response.output if item.type == "function_call"]
    assert len(calls) == 1
    assert choice == "required" or calls[0].name == "get_weather"


def test_only_some_tools_are_allowed(reciting: Any, client: openai.OpenAI, tools: Any) -> None:
    """The model, which wants to call another, cannot; in chats the same."""
    only = {"mode": "auto", "tools": [{"type": "function", "name": "stop"}]}
    fields = asked(reciting, tools=tools, tool_choice={"type": "allowed_tools", **only})
    response = client.responses.create(**fields)
    assert "get_weather" not in [item.name for item in response.output if item.type == "function_call"]
    nested: Any = [
        {"type": "function", "function": {key: tool[key] for key in ("name", "parameters")}} for tool in tools
    ]
    choice: Any = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "stop"}}]},
    }
    chat = client.chat.completions.create(
        model=reciting.calls,
        messages=[{"role": "user", "content": QUESTION}],
        tools=nested,
        tool_choice=choice,
        temperature=1,
        max_tokens=300,
    )
    assert {call.function.name for call in chat.choices[0].message.tool_calls} == {"stop"}


def test_events_hide_their_sizes(reciting: Any, client: openai.OpenAI) -> None:
    url, body = (
        f"{reciting.url}/v1/responses",
        asked(reciting, stream=True, stream_options={"include_obfuscation": True}),
    )
    with reciting.server.http.stream("POST", url, json=body) as reply:
        lines = [line for line in reply.iter_lines() if line.startswith("data: ") and ".delta" in line]
    assert lines and all(len(line.removeprefix("data: ").encode()) % 128 == 0 for line in lines)
    assert all(json.loads(line.removeprefix("data: "))["obfuscation"] for line in lines)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"store": True}, "store"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"background": True}, "background"),
    ({"truncation": "auto"}, "truncation"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"include": ["message.output_text.logprobs"]}, "include"),
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"input": [{"type": "item_reference", "id": "a"}]}, "input[0]"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "a"}]}]}, "input[0].content[0]"),
    ({"input": [{"role": "robot", "content": "a"}]}, "input[0].role"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
    ({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]}, "input[0].encrypted_content"),
    ({"input": "long " * 5000}, "input"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
    ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
    ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"not": {}}}}}, "text.format.schema"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"text": {"x": 1}}, "text.x"),
    ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
    ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": 100000}, "max_output_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
    ({"messages": []}, "messages"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_cannot_be_honoured_is_named(reciting: Any, client: openai.OpenAI, fields: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(**asked(reciting, extra_body=fields))
    assert error.value.param == param, error.value


def test_what_asks_for_nothing_is_taken(reciting: Any, client: openai.OpenAI) -> None:
    fields: Any = {
        "include": ["reasoning.encrypted_content"],
        "truncation": "disabled",
        "service_tier": "auto",
        "reasoning": {"summary": "auto", "effort": None},
        "text": {"verbosity": "medium", "format": {"type": "text"}},
        "top_logprobs": 0,
        "user": "u",
        "previous_response_id": None,
        "background": False,
        "tool_choice": "none",
        "top_k": -1,
    }
    response = client.responses.create(**asked(reciting, extra_body=fields))
    assert response.status == "completed"
