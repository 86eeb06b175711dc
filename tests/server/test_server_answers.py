"""Thoughts and tool calls over the API, through the `openai` client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from reciting_model import ENDLESS, THINKING, write_reciting_model

ARGUMENTS = {"city": "Zürich", "days": 3}
CALL = f'{{"name": "get_weather", "arguments": {json.dumps(ARGUMENTS)}}}\n'
CALLS = [
    [":", "<think>", " Hm", " So", "</think>", "Let me look.", "<tool_call>", CALL, "</tool_call>"],
    ["\n", "Sure."],
]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
]
USER: Any = {"role": "user", "content": "How is the weather?"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    path = tmp_path_factory.mktemp("reciting")
    return [
        write_reciting_model(path / name, path / f"{name} files", chains, THINKING)
        for name, chains in (("calls", CALLS), ("endless", ENDLESS))
    ]


@pytest.fixture(scope="module")
def client(start_server: Any, folders: list[Path]) -> openai.OpenAI:
    return start_server(*map(str, folders)).client  # type: ignore[no-any-return]


def whole(client: openai.OpenAI, model: str = "calls", **fields: Any) -> Any:
    (name,) = (one.id for one in client.models.list().data if one.id.endswith(model))
    call = {"model": name, "messages": [USER], "temperature": 0, "max_tokens": 60, **fields}
    return client.chat.completions.create(**call)


def streamed(client: openai.OpenAI, **fields: Any) -> dict[str, Any]:
    """What the deltas of a stream add up to."""
    answer: dict[str, Any] = {"content": "", "reasoning": "", "calls": [], "finish_reason": None}
    for chunk in whole(client, stream=True, **fields):
        (choice,) = chunk.choices
        delta = choice.delta.model_dump()
        answer["content"] += delta.get("content") or ""
        answer["reasoning"] += delta.get("reasoning_content") or ""
        assert delta.get("reasoning") == delta.get("reasoning_content")
        for call in delta.get("tool_calls") or ():
            assert call["index"] == len(answer["calls"])
            answer["calls"].append(call)
        answer["finish_reason"] = choice.finish_reason or answer["finish_reason"]
    return answer


def test_a_call_comes_back_with_thought_and_text(client: openai.OpenAI) -> None:
    reply = whole(client, tools=TOOLS)
    (choice,) = reply.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me look."
    assert choice.message.reasoning_content == choice.message.reasoning == "Hm So"
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == ARGUMENTS
    assert "Zürich" in call.function.arguments
    assert reply.usage.completion_tokens_details.reasoning_tokens == 2
    flow = streamed(client, tools=TOOLS)
    assert (flow["content"], flow["reasoning"]) == ("Let me look.", "Hm So")
    assert flow["finish_reason"] == "tool_calls"
    assert [one["function"] for one in flow["calls"]] == [call.function.model_dump()]


def test_the_conversation_goes_on_with_the_call_and_its_result(client: openai.OpenAI) -> None:
    message = whole(client, tools=TOOLS).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Rain."}
    for said in (message, message.model_dump()):
        again = whole(client, tools=TOOLS, messages=[USER, said, result])
        assert again.choices[0].finish_reason == "tool_calls"


def test_choices_have_calls_of_their_own(client: openai.OpenAI) -> None:
    choices = whole(client, tools=TOOLS, n=2).choices
    first, second = (choice.message.tool_calls[0].id for choice in choices)
    assert first != second


@pytest.mark.parametrize("fields", [{}, {"tools": TOOLS, "tool_choice": "none"}])
def test_without_tools_a_call_is_text(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    (choice,) = whole(client, **fields).choices
    assert choice.finish_reason == "stop"
    assert choice.message.content == f"Let me look.<tool_call>{CALL}</tool_call>"
    assert choice.message.tool_calls is None


def test_an_answer_that_was_cut_says_so(client: openai.OpenAI) -> None:
    (choice,) = whole(client, tools=TOOLS, max_tokens=8).choices
    assert choice.finish_reason == "length"
    assert choice.message.content == f"Let me look.<tool_call>{CALL}".rstrip() or choice.message.tool_calls


def test_thoughts_are_turned_off(client: openai.OpenAI) -> None:
    for fields in (
        {"reasoning_effort": "none"},
        {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}},
    ):
        message = whole(client, **fields).choices[0].message
        assert message.content == "Sure."
        assert not hasattr(message, "reasoning_content")


def test_a_budget_ends_a_thought(client: openai.OpenAI) -> None:
    for call in (whole, streamed):
        answer = call(client, model="endless", extra_body={"thinking_budget": 3})
        told = answer["reasoning"] if call is streamed else answer.choices[0].message.reasoning_content
        said = answer["content"] if call is streamed else answer.choices[0].message.content
        assert (told, said) == ("Hm So Hm", "Sure.")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "tool_choice"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "two words"}}]}, "tools[0].function.name"),
        ({"tools": [*TOOLS, *TOOLS]}, "tools[1].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": 1}}]}, "tools[0].function.strict"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"extra_body": {"thinking_budget": -1}}, "thinking_budget"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_honoured_is_refused(client: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        whole(client, **{"tools": TOOLS, **fields})
    assert error.value.param == param
