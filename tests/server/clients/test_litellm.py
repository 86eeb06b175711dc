"""Every API of chats through LiteLLM, which reads thoughts."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from patience import SECONDS

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network for prices as it is imported
litellm = pytest.importorskip("litellm", reason="needs pip install landrace[clients]")

USER = {"role": "user", "content": "How is the weather?"}
THINK = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "allowed_openai_params": ["thinking"]}
WAYS = ["openai", "anthropic", "ollama_chat"]


def call(reciting: Any, way: str, **fields: Any) -> Any:
    function = {"name": "get_weather", "description": "The weather.", "parameters": reciting.schema}
    body = {
        "model": f"{way}/{reciting.calls}",
        "api_base": f"{reciting.url}/v1" if way == "openai" else reciting.url,
        "api_key": "none",
        "messages": [USER],
        "tools": [{"type": "function", "function": function}],
        "max_tokens": 300,
        "temperature": 0,
        "num_retries": 0,
        "timeout": SECONDS,
        **(THINK if way == "anthropic" else {}),
        **fields,
    }
    return litellm.completion(**body)


@pytest.mark.parametrize("way", WAYS)
def test_tools_go_round(reciting: Any, way: str) -> None:
    message = call(reciting, way).choices[0].message
    assert message.content == "Let me look."
    assert message.reasoning_content == "Hm So"
    (made,) = message.tool_calls
    assert (made.function.name, json.loads(made.function.arguments)) == ("get_weather", reciting.arguments)
    result = {"role": "tool", "tool_call_id": made.id, "name": "get_weather", "content": "Rain."}
    again = call(reciting, way, messages=[USER, message.model_dump(), result])
    assert again.choices[0].message.tool_calls


@pytest.mark.parametrize("way", WAYS)
def test_streams_add_up(reciting: Any, way: str) -> None:
    chunks = list(call(reciting, way, stream=True))
    whole = litellm.stream_chunk_builder(chunks, messages=[USER]).choices[0]
    assert (whole.message.content, whole.message.reasoning_content) == ("Let me look.", "Hm So")
    assert [json.loads(made.function.arguments) for made in whole.message.tool_calls] == [reciting.arguments]
    assert whole.finish_reason == "tool_calls"


def test_errors_are_the_clients_own(reciting: Any) -> None:
    for way in ("openai", "anthropic"):
        with pytest.raises(litellm.NotFoundError):
            call(reciting, way, model=f"{way}/nobody")
    with pytest.raises(litellm.BadRequestError):
        call(reciting, "openai", max_tokens=10**6)
