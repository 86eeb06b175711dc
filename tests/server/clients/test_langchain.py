"""Chats and responses through LangChain."""

from __future__ import annotations

from typing import Any, Literal

import openai
import pytest
from patience import SECONDS
from pydantic import BaseModel, SecretStr

langchain_openai = pytest.importorskip("langchain_openai", reason="needs pip install landrace[clients]")

QUESTION = "How is the weather?"


class Colour(BaseModel):
    """A colour."""

    name: Literal["red", "blue"]


class get_weather(BaseModel):  # noqa: N801
    """The weather."""

    city: str
    days: int


def chat(reciting: Any, **fields: Any) -> Any:
    fields = {"model": reciting.calls, "temperature": 0, "max_tokens": 300, **fields}
    key = SecretStr("none")
    return langchain_openai.ChatOpenAI(
        base_url=f"{reciting.url}/v1", api_key=key, max_retries=0, timeout=SECONDS, **fields
    )


@pytest.mark.parametrize("responses", [False, True])
def test_tools_go_round(reciting: Any, responses: bool) -> None:
    model = chat(reciting, use_responses_api=responses).bind_tools([get_weather])
    reply = model.invoke(QUESTION)
    (call,) = reply.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", reciting.arguments)
    assert reply.text == "Let me look."
    assert reply.usage_metadata["output_tokens"] > 5
    result = {"role": "tool", "tool_call_id": call["id"], "content": "Rain."}
    again = model.invoke([{"role": "user", "content": QUESTION}, reply, result])
    assert again.tool_calls


@pytest.mark.parametrize("responses", [False, True])
def test_streams_add_up(reciting: Any, responses: bool) -> None:
    model = chat(reciting, use_responses_api=responses, stream_usage=True).bind_tools([get_weather])
    whole: Any = None
    for chunk in model.stream(QUESTION):
        whole = chunk if whole is None else whole + chunk
    assert whole.text == "Let me look."
    assert [call["args"] for call in whole.tool_calls] == [reciting.arguments]
    assert whole.usage_metadata["input_tokens"] > 100


@pytest.mark.parametrize("responses", [False, True])
def test_structured_output(reciting: Any, responses: bool) -> None:
    model = chat(reciting, use_responses_api=responses, temperature=1)
    assert model.with_structured_output(Colour, method="json_schema").invoke(QUESTION).name in ("red", "blue")
    forced = model.with_structured_output(Colour, method="function_calling").invoke(QUESTION)
    assert forced.name in ("red", "blue")


def test_errors_are_the_clients_own(reciting: Any) -> None:
    with pytest.raises(openai.NotFoundError):
        chat(reciting, model="nobody").invoke(QUESTION)
    with pytest.raises(openai.BadRequestError):
        chat(reciting, temperature=-1).invoke(QUESTION)
