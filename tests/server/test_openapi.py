"""The OpenAPI document: every route is in it, and what is sent and answered is as it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from landrace.server.app import routers_of
from landrace.server.engines.registry import Registry
from landrace.server.models import ModelFacts, ModelList
from landrace.server.openai.reply_schema import ChatChunk, ChatReply, CompletionReply
from landrace.server.openapi.description import Told
from landrace.server.openapi.document import ErrorReply, description_of, document, routes_of
from landrace.server.serving import Serving
from landrace.server.status import Health
from landrace.server.tokens import DetokenizeReply, TokenizeReply
from landrace.server.usage import UsageLog

SAID = [{"role": "user", "content": "Ask"}]


@pytest.fixture(scope="module")
def routers() -> Any:
    return routers_of(Serving(Registry([]), UsageLog(None, name="", command="", config={})))


def test_every_route_says_what_it_is(routers: Any) -> None:
    """Described as `landrace.server.openapi.description` shows, or left out by `include_in_schema=False`."""
    routes = list(routes_of(routers))
    assert len(routes) > 10
    assert [route.path for route in routes if description_of(route) is None] == []


def test_the_document_is_whole(routers: Any) -> None:
    told = document(routers)
    names = set(told["components"]["schemas"])
    text = json.dumps(told)
    used = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert used <= names
    for schema in told["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    ids = [operation["operationId"] for methods in told["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))
    chat = told["paths"]["/v1/chat/completions"]["post"]
    assert chat["security"] == [{"key": []}] and "4XX" in chat["responses"]
    assert told["paths"]["/health"]["get"]["security"] == []
    assert "{name}" in "".join(path for path in told["paths"] if path.startswith("/v1/models/"))


def body_schema(routers: Any, path: str) -> Any:
    told = document(routers)
    sent = told["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return jsonschema.Draft202012Validator({**sent, "components": told["components"]})


@pytest.mark.parametrize(
    ("path", "body", "holds"),
    [
        ("/v1/chat/completions", {"model": "m", "messages": SAID}, True),
        ("/v1/chat/completions", {"model": "m", "messages": SAID, "stop": None, "seed": None, "user": "u"}, True),
        ("/v1/chat/completions", {"model": "m", "messages": SAID, "stop": "a", "service_tier": "auto"}, True),
        ("/v1/chat/completions", {"model": "m", "messages": SAID, "service_tier": "flex"}, False),
        ("/v1/chat/completions", {"model": "m", "messages": SAID, "stream_options": {"include_usage": None}}, True),
        ("/v1/chat/completions", {"model": "m", "messages": SAID, "nothing": 1}, False),
        ("/v1/chat/completions", {"messages": SAID}, False),
        ("/v1/completions", {"model": "m", "prompt": [[1, 2], [3]]}, True),
        ("/v1/completions", {"model": "m", "prompt": "a", "n": 0}, False),
        ("/v1/embeddings", {"model": "m", "input": ["a"], "dimensions": None, "user": None}, True),
        ("/v1/embeddings", {"model": "m", "input": 3}, False),
        ("/v1/rerank", {"model": "m", "query": "a", "documents": ["b", {"text": "c"}]}, True),
        ("/v1/score", {"model": "m", "text_1": "a", "text_2": ["b"]}, True),
        ("/v1/tokenize", {"model": "m", "prompt": "a"}, True),
    ],
)
def test_bodies_are_what_the_server_takes(routers: Any, path: str, body: dict[str, Any], holds: bool) -> None:
    assert body_schema(routers, path).is_valid(body) is holds


REPLIES: list[tuple[str, dict[str, Any], type[Told]]] = [
    ("/v1/chat/completions", {"messages": SAID, "max_tokens": 3, "logprobs": True, "top_logprobs": 2}, ChatReply),
    ("/v1/chat/completions", {"messages": SAID, "max_tokens": 3, "n": 2, "include_timings": True}, ChatReply),
    ("/v1/completions", {"prompt": "Ask", "max_tokens": 3, "logprobs": 2, "echo": True}, CompletionReply),
    ("/v1/tokenize", {"prompt": "Ask", "return_token_strs": True}, TokenizeReply),
    ("/v1/detokenize", {"tokens": [1, 2]}, DetokenizeReply),
    ("/v1/completions", {}, ErrorReply),
]


@pytest.mark.parametrize(("path", "body", "form"), REPLIES)
def test_replies_are_what_it_says(
    server: Any, tiny_model: Path, path: str, body: dict[str, Any], form: type[Told]
) -> None:
    """Field by field: one that the document does not name is an error here."""
    form.model_validate_json(server.post(path, {"model": str(tiny_model), **body}).content)


def test_chunks_are_what_it_says(server: Any, tiny_model: Path) -> None:
    more = {"stream": True, "max_tokens": 4, "logprobs": True, "stream_options": {"include_usage": True}}
    text = server.post("/v1/chat/completions", {"model": str(tiny_model), "messages": SAID, **more}).text
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: {")]
    assert len(lines) > 3
    for line in lines:
        ChatChunk.model_validate_json(line)


def test_what_is_served_is_told_as_it_says(server: Any, tiny_model: Path) -> None:
    Health.model_validate_json(server.get("/health").content)
    ModelList.model_validate_json(server.get("/v1/models").content)
    ModelFacts.model_validate_json(server.get("/v1/models/tuned").content)
    served = server.get("/openapi.json").json()
    assert served["openapi"] == "3.1.0" and "/v1/embeddings" in served["paths"]
