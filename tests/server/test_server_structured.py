"""Structured answers and forced calls over the API, through the `openai` client, and what is refused before anything is
generated."""

from __future__ import annotations

import json
import threading
from enum import Enum
from typing import Any

import jsonschema
import openai
import pytest
from pydantic import BaseModel
from reciting_model import ENDLESS, THINKING, write_reciting_model

TALKS = [[":", "<think>", " Hm", "</think>", "Sure", "."], ["\n", "Sure"]]
"""Says nothing that anybody asked for."""
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Bern", "Basel"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}}}},
]
USER: Any = {"role": "user", "content": "How is the weather?"}


class City(Enum):
    bern = "Bern"
    basel = "Basel"


class Weather(BaseModel):
    city: City
    days: list[bool]


@pytest.fixture(scope="module")
def server(start_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("talking")
    folders = [
        write_reciting_model(path / name, path / f"{name} files", chains, THINKING)
        for name, chains in (("talks", TALKS), ("endless", ENDLESS))
    ]
    return start_server(*map(str, folders))


@pytest.fixture(scope="module")
def client(server: Any) -> openai.OpenAI:
    return server.client  # type: ignore[no-any-return]


def named(client: openai.OpenAI, end: str = "talks") -> str:
    (name,) = (one.id for one in client.models.list().data if one.id.endswith(end))
    return name


def said(client: openai.OpenAI, **fields: Any) -> Any:
    call = {"model": named(client), "messages": [USER], "temperature": 1.5, "seed": 3, "max_tokens": 400, **fields}
    return client.chat.completions.create(**call).choices[0]


def streamed(client: openai.OpenAI, **fields: Any) -> tuple[str, list[Any], str | None]:
    call = {"model": named(client), "messages": [USER], "temperature": 1.5, "seed": 3, "max_tokens": 400, **fields}
    text, calls, reason = "", [], None
    for chunk in client.chat.completions.create(**call, stream=True):
        (choice,) = chunk.choices
        text += choice.delta.content or ""
        calls += choice.delta.tool_calls or ()
        reason = choice.finish_reason or reason
    return text, calls, reason


def of_schema(schema: Any, **more: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema, **more}}


@pytest.mark.parametrize("strict", [True, False, None])
def test_an_answer_is_valid_under_its_schema(strict: bool | None, client: openai.OpenAI) -> None:
    fields = {"response_format": of_schema(SCHEMA, strict=strict)}
    choice = said(client, **fields)
    assert choice.finish_reason == "stop"
    jsonschema.validate(json.loads(choice.message.content), SCHEMA)
    assert streamed(client, **fields) == (choice.message.content, [], "stop")


def test_the_clients_own_parser_reads_it(client: openai.OpenAI) -> None:
    asked: Any = {"model": named(client), "messages": [USER], "seed": 1, "max_tokens": 400}
    (choice,) = client.chat.completions.parse(**asked, response_format=Weather).choices
    assert isinstance(choice.message.parsed, Weather)
    tools = [openai.pydantic_function_tool(Weather)]
    (choice,) = client.chat.completions.parse(**asked, tools=tools, tool_choice="required").choices
    assert choice.message.tool_calls is not None
    assert all(isinstance(call.function.parsed_arguments, Weather) for call in choice.message.tool_calls)


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ({"choice": ["yes", "no"]}, {"yes", "no"}),
        ({"regex": "a{3}|b{3}"}, {"aaa", "bbb"}),
        ({"grammar": 'start: "x" ("y" | "z")'}, {"xy", "xz"}),
        ({"json": json.dumps({"enum": [1, None]})}, {"1", "null"}),
        ({"json": {"const": "é"}, "regex": None}, {'"é"'}),
    ],
)
def test_answers_by_vllms_names_on_both_endpoints(asked: Any, allowed: set[str], client: openai.OpenAI) -> None:
    fields = {"extra_body": {"structured_outputs": asked}}
    assert said(client, **fields).message.content in allowed
    call: Any = {"model": named(client), "max_tokens": 40, **fields}
    completion = client.completions.create(prompt=["Well, ", "So, "], n=2, temperature=1, **call)
    assert [choice.finish_reason for choice in completion.choices] == ["stop"] * 4
    assert {choice.text for choice in completion.choices} <= allowed
    stream = client.completions.create(prompt="Well, ", stream=True, **call)
    assert "".join(chunk.choices[0].text for chunk in stream) in allowed


def test_any_object(client: openai.OpenAI) -> None:
    choice = said(client, response_format={"type": "json_object"}, temperature=1, max_tokens=200)
    assert choice.message.content.startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)


def test_a_cut_answer_is_said(client: openai.OpenAI) -> None:
    choice = said(client, response_format=of_schema({"type": "string", "minLength": 50}), max_tokens=20)
    assert choice.finish_reason == "length"


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=["required", "named"]
)
def test_a_call_is_forced(choice: Any, parallel: bool, client: openai.OpenAI) -> None:
    fields = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": parallel, "max_tokens": 1500}
    found = said(client, **fields)
    assert found.finish_reason == "tool_calls"
    assert not found.message.content
    calls = found.message.tool_calls
    assert len(calls) == 1 or (parallel and choice == "required")
    for call in calls:
        if call.function.name == "get_weather":
            jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
        else:
            assert choice == "required" and (call.function.name, call.function.arguments) == ("stop", "{}")
    text, flow, reason = streamed(client, **fields)
    assert (text, reason) == ("", "tool_calls")
    assert [call.function.arguments for call in flow] == [call.function.arguments for call in calls]


def test_a_strict_tool_leaves_the_model_its_choice(client: openai.OpenAI) -> None:
    strict = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    assert said(client, tools=strict, temperature=0).message.content == "Sure."
    assert said(client, tools=TOOLS, parallel_tool_calls=False, temperature=0).message.content == "Sure."


def test_a_call_or_an_answer(client: openai.OpenAI) -> None:
    found = said(client, tools=TOOLS, response_format=of_schema(SCHEMA), max_tokens=1500)
    if found.message.tool_calls:
        assert not found.message.content
    else:
        jsonschema.validate(json.loads(found.message.content), SCHEMA)
    none = said(client, tools=TOOLS, tool_choice="none", response_format=of_schema(SCHEMA))
    jsonschema.validate(json.loads(none.message.content), SCHEMA)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": "json"}, "response_format", "invalid_type"),
    ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
    ({"response_format": {"type": "text", "json_schema": {}}}, "response_format.json_schema", "unknown_parameter"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        "response_format.json_schema.schema",
        "missing_required_parameter",
    ),
    (
        {"response_format": of_schema({"type": "object", "if": {}})},
        "response_format.json_schema.schema",
        "invalid_value",
    ),
    ({"response_format": of_schema(SCHEMA, strict="yes")}, "response_format.json_schema.strict", "invalid_type"),
    ({"structured_outputs": {}}, "structured_outputs", "invalid_value"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", "invalid_value"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "invalid_value"),
    ({"structured_outputs": {"xml": "a"}}, "structured_outputs.xml", "unknown_parameter"),
    ({"structured_outputs": {"regex": "(?=a)b"}}, "structured_outputs", "invalid_value"),
    ({"structured_outputs": {"grammar": "start: nothing"}}, "structured_outputs", "invalid_value"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "invalid_value"),
    (
        {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
        "structured_outputs",
        "invalid_value",
    ),
]
OF_CHATS: list[tuple[dict[str, Any], str, str]] = [
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice", "invalid_value"),
    (
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "nobody"}}},
        "tool_choice",
        "invalid_value",
    ),
    (
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}],
            "tool_choice": "required",
        },
        "tools",
        "invalid_value",
    ),
]


@pytest.mark.parametrize(("fields", "param", "code"), [*REFUSED, *OF_CHATS])
def test_what_cannot_be_kept_is_refused(fields: dict[str, Any], param: str, code: str, server: Any) -> None:
    body = {"model": named(server.client), "max_tokens": 4, **fields}
    ways = [("/v1/chat/completions", {"messages": [USER]})]
    ways += [("/v1/completions", {"prompt": "a"})] if (fields, param, code) in REFUSED else []
    for path, prompt in ways:
        reply = server.post(path, {**body, **prompt})
        assert reply.status_code == 400, reply.text
        error = reply.json()["error"]
        assert (error["param"], error["code"]) == (param, code), error


def test_hostile_schemas_stop_nobody(server: Any) -> None:
    """While they are read and refused, a stranger's stream goes on and the server tells that it is well."""
    deep: Any = {"type": "string"}
    for _ in range(30):
        deep = {"anyOf": [{"type": "array", "items": deep}, {"type": "object", "properties": {"a": deep}}]}
    wide = {"type": "object", "properties": {f"p{n}": {"pattern": "(a|b|ab)*c{1,200}"} for n in range(500)}}
    hostile = [
        deep,
        wide,
        {"type": "string", "pattern": "((a{1,100}){1,100}){1,100}"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"allOf": [{"pattern": f"a{{{n},{n + 900}}}b*"} for n in range(60)]},
    ]
    body = {"model": named(server.client), "messages": [USER], "max_tokens": 3}
    replies: list[Any] = []

    def send(schema: Any) -> None:
        replies.append(server.post("/v1/chat/completions", {**body, "response_format": of_schema(schema)}))

    stranger = server.client.chat.completions.create(
        model=named(server.client, "endless"), messages=[USER], max_tokens=300, stream=True, temperature=0
    )
    threads = [threading.Thread(target=send, args=(schema,)) for schema in hostile]
    for thread in threads:
        thread.start()
    reasons = []
    for number, chunk in enumerate(stranger):
        reasons.append(chunk.choices[0].finish_reason)
        if number % 50 == 0:
            assert server.get("/health").status_code == 200
    assert reasons[-1] == "length" and len(reasons) > 100
    for thread in threads:
        thread.join()
    assert len(replies) == len(hostile)
    assert all(reply.status_code in (200, 400) for reply in replies), [reply.text for reply in replies]
