"""The real Qwen2.5-Coder-0.5B-Instruct calls two tools in a row, with their results fed back, and answers to a schema.

Set LANDRACE_REAL_MODELS to the folder that holds its Q4_K_M GGUF file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from landrace.engine import Completion, EngineOptions, Request, SamplingParams
from landrace.model import ServingModel, open_engine
from landrace.text import chat_prompt
from landrace.text.answers import AnswerForm, answer_form, call_guide
from landrace.text.guides import Guide

FILE = "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_temperature",
            "description": "The temperature in a city now, in degrees Celsius.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "celsius_to_fahrenheit",
            "description": "Converts degrees Celsius to degrees Fahrenheit.",
            "parameters": {"type": "object", "properties": {"celsius": {"type": "number"}}, "required": ["celsius"]},
        },
    },
]
RECORD = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 30},
        "celsius": {"type": "number"},
        "fahrenheit": {"type": "number"},
    },
    "required": ["city", "celsius", "fahrenheit"],
    "additionalProperties": False,
}
QUESTION = "Get the temperature in Bern first. Then convert what you get to Fahrenheit with the other tool."


@pytest.fixture(scope="module")
def serving() -> ServingModel:
    folder = os.environ.get("LANDRACE_REAL_MODELS")
    path = Path(folder or ".") / FILE
    if folder is None or not path.is_file():
        pytest.skip(f"set LANDRACE_REAL_MODELS to a folder with {FILE}")
    return open_engine(str(path), options=EngineOptions(max_length=2048))


def ask(serving: ServingModel, messages: list[dict[str, Any]], guide_of: Any) -> Completion:
    tokenizer = serving.model.tokenizer
    prompt = chat_prompt(tokenizer, messages, tools=TOOLS)
    form = answer_form(tokenizer, prompt.text, TOOLS)
    request = Request(
        "r", tuple(prompt.token_ids), SamplingParams(max_tokens=120, temperature=0.0), answer=form, guide=guide_of(form)
    )
    (completion,) = serving.engine.generate([request])
    assert completion.error is None
    assert completion.finish_reason == "stop", completion.text
    return completion


def test_two_tools_in_a_row_and_an_answer_to_a_schema(serving: ServingModel) -> None:
    tokenizer = serving.model.tokenizer
    messages: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
    called = []

    def one_call(form: AnswerForm) -> Guide:
        return call_guide(tokenizer, form, several=False)

    for result in ('{"celsius": 20}', '{"fahrenheit": 68}'):
        (call,) = ask(serving, messages, one_call).parts.calls
        called.append((call.name, call.arguments))
        function = {"name": call.name, "arguments": call.arguments}
        messages += [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": call.id, "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": call.id, "content": result},
        ]
    assert called == [("get_temperature", {"city": "Bern"}), ("celsius_to_fahrenheit", {"celsius": 20})]
    messages.append({"role": "user", "content": "Now tell me the city and both temperatures as JSON."})
    answer = ask(serving, messages, lambda form: Guide.of_schema(RECORD))
    record = json.loads(answer.parts.content)
    jsonschema.validate(record, RECORD)
    assert (record["city"], record["celsius"], record["fahrenheit"]) == ("Bern", 20, 68)
