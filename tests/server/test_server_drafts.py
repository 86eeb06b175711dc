"""A server that drafts says what one says that does not; its events carry several tokens, and its usage tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HELLO = [{"role": "user", "content": "hello"}]
LOOP = {"temperature": 0, "max_tokens": 60, "logit_bias": {"70": 100.0}}
"""An answer that repeats one token."""


@pytest.fixture(scope="module")
def drafting(start_server: Callable[..., Any], tiny_model: Path) -> Any:
    return start_server(str(tiny_model), "--draft", "ngram", "--max-length", "256")


@pytest.fixture(scope="module")
def name(drafting: Any) -> str:
    model: str = drafting.client.models.list().data[0].id
    return model


def test_events_of_several_tokens(drafting: Any, name: str, ask: Callable[..., Any]) -> None:
    expected = ask(HELLO, max_tokens=60, logit_bias={70: 100.0}, logprobs=1)
    call = {"model": name, "messages": HELLO, "logprobs": True, "top_logprobs": 1, **LOOP}
    whole = drafting.client.chat.completions.create(**call)
    assert whole.choices[0].message.content == expected.text
    details = whole.usage.completion_tokens_details
    assert whole.usage.completion_tokens == 60
    assert 0 < details.accepted_prediction_tokens < 60
    stream = drafting.client.chat.completions.create(stream=True, **call)
    told = [chunk.choices[0] for chunk in stream]
    assert "".join(choice.delta.content or "" for choice in told) == expected.text
    events = [choice.logprobs.content for choice in told if choice.logprobs]
    assert max(map(len, events)) > 1
    entries = [entry for event in events for entry in event]
    for content in (entries, whole.choices[0].logprobs.content):
        numbers = [entry.logprob for entry in content]
        assert numbers == pytest.approx([entry.logprob for entry in expected.logprobs], abs=1e-4)


@pytest.mark.parametrize("fields", [{}, {"temperature": 1.2, "seed": 5}, {"stop": "o"}, {"frequency_penalty": 1.0}])
def test_the_answers_are_those_without_drafts(
    drafting: Any, name: str, ask: Callable[..., Any], fields: dict[str, Any]
) -> None:
    params = {"temperature": 0, "max_tokens": 24, **fields}
    reply = drafting.post("/v1/chat/completions", {"model": name, "messages": HELLO, "n": 1, **params}).json()
    stop = {"stop": (fields["stop"],)} if "stop" in fields else {}
    assert reply["choices"][0]["message"]["content"] == ask(HELLO, **{**params, **stop}).text


def test_usage_tells_of_drafts_only_where_there_were_some(drafting: Any, name: str) -> None:
    reply = drafting.post("/v1/completions", {"model": name, "prompt": [5], "max_tokens": 1}).json()
    assert "completion_tokens_details" not in reply["usage"]
