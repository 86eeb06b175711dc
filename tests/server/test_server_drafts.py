"""A server that drafts says what one says that does not; its events carry several tokens, and its usage tells."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fake_engines import registry_of

from landrace.engine import EngineOptions, Request, SamplingParams, StepOutput
from landrace.errors import OptionError
from landrace.model import open_engine
from landrace.server.app import create_app
from landrace.server.serving import Serving
from landrace.server.usage import UsageLog

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


@pytest.fixture
def say(tiny_model: Path, free_rows: None) -> Callable[..., httpx.Response]:
    """Posts to the application, whose engine drafts wherever there is room: in this process, where its steps can have
    prices of their own."""
    opened = open_engine(str(tiny_model), options=EngineOptions(draft="ngram"))

    def submit(requests: list[Request]) -> asyncio.Queue[StepOutput]:
        events: asyncio.Queue[StepOutput] = asyncio.Queue()
        opened.engine.generate(requests, events.put_nowait)
        return events

    engine: Any = SimpleNamespace(
        tokenizer=opened.model.tokenizer,
        max_length=opened.engine.max_length,
        prompt_limit=opened.engine.max_length,
        shifts=False,
        max_pending=8,
        check_alive=lambda: None,
        settings=SimpleNamespace(model="m"),
        abilities=SimpleNamespace(check_writes=lambda model: None),
        fingerprint=lambda adapter: "fp",
        submit=submit,
        release=lambda requests, abort: None,
    )
    app = create_app(Serving(registry_of("m", engine), UsageLog(None, name="m", command="", config={})))

    def post(**body: Any) -> httpx.Response:
        async def talk() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                return await client.post("/v1/chat/completions", json={"model": "m", **body})

        return asyncio.run(talk())

    return post


def test_events_of_several_tokens(say: Callable[..., httpx.Response], ask: Callable[..., Any]) -> None:
    expected = ask(HELLO, max_tokens=60, logit_bias={70: 100.0}, logprobs=1)
    call = {"messages": HELLO, "logprobs": True, "top_logprobs": 1, **LOOP}
    whole = say(**call).json()
    assert whole["choices"][0]["message"]["content"] == expected.text
    assert whole["usage"]["completion_tokens"] == 60
    accepted = whole["usage"]["completion_tokens_details"]["accepted_prediction_tokens"]
    assert 30 < accepted < 60
    lines = say(stream=True, stream_options={"include_usage": True}, **call).text.split("\n\n")
    *chunks, last = [json.loads(line.removeprefix("data: ")) for line in lines if line not in ("", "data: [DONE]")]
    assert last["usage"]["completion_tokens_details"] == whole["usage"]["completion_tokens_details"]
    told = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["delta"].get("content") or "" for choice in told) == expected.text
    events = [choice["logprobs"]["content"] for choice in told if choice["logprobs"]]
    assert len(events) == 60 - accepted
    entries = [entry for event in events for entry in event]
    for content in (entries, whole["choices"][0]["logprobs"]["content"]):
        numbers = [entry["logprob"] for entry in content]
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


def test_a_model_writes_the_drafts(tiny_model: Path) -> None:
    """Opened by its name, as `--draft MODEL` does; the guesses of the model itself are all right."""
    opened = open_engine(str(tiny_model), options=EngineOptions(draft=str(tiny_model)))
    params = SamplingParams(max_tokens=200, temperature=1.0, seed=1, ignore_eos=True)
    drafted = opened.engine.generate([Request("drafted", (1, 2, 3), params)])[0]
    plain = open_engine(str(tiny_model)).engine.generate([Request("plain", (1, 2, 3), params)])[0]
    assert drafted.token_ids == plain.token_ids
    assert drafted.drafted_tokens == drafted.accepted_tokens > 0


def test_a_model_with_other_tokens_is_refused(tiny_model: Path, smollm2_path: Path) -> None:
    with pytest.raises(OptionError, match="tokens differ"):
        open_engine(str(smollm2_path), options=EngineOptions(draft=str(tiny_model)))
