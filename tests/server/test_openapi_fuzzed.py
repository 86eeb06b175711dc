"""Schemathesis from the document of a running server: bodies as it describes them, of which many reach the engine, and
bodies that break it. No call fails on the server's side, and every reply is as the document says."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from patience import SECONDS

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: it is in the extra `clients`")

from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = pytest.mark.long
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
TEXT = {"type": "string", "minLength": 1, "maxLength": 12, "pattern": "^[a-z <|>_]+$"}
MESSAGES = {
    "type": "array",
    "minItems": 1,
    "maxItems": 3,
    "items": {
        "type": "object",
        "properties": {"role": {"enum": ["user", "assistant", "system"]}, "content": TEXT},
        "required": ["role", "content"],
        "additionalProperties": False,
    },
}
SHORT = {
    "max_tokens": {"type": "integer", "minimum": 1, "maximum": 3},
    "max_output_tokens": {"type": "integer", "minimum": 1, "maximum": 3},
    "n": {"type": "integer", "minimum": 1, "maximum": 2},
    "messages": MESSAGES,
    "documents": {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 3},
    "query": TEXT,
    "prompt": TEXT,
    "input": TEXT,
    "text_1": TEXT,
    "text_2": TEXT,
    "stream": {"const": False},
    "tokens": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 200}},
}
"""What makes a body one that is computed, and soon."""
PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/score",
    "/v1/tokenize",
    "/v1/detokenize",
)


@pytest.fixture(scope="module")
def whole(start_server: Any, tiny_model: Path, tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server that has every route."""
    root = tmp_path_factory.mktemp("whole")
    adapter = ("--adapter", f"tuned={tiny_adapter}")
    return start_server(str(tiny_model), *adapter, "--data", str(root / "data"), ledger=root / "usage.sqlite")


def computable(told: dict[str, Any], model: str) -> dict[str, Any]:
    """The document narrowed to bodies of which many are computed."""
    told = copy.deepcopy(told)
    for schema in told["components"]["schemas"].values():
        if "model" in schema.get("properties", {}) and "model" in schema.get("required", ()):
            own = {"model": {"const": model}, **SHORT}
            schema["properties"] |= {name: own[name] for name in schema["properties"] if name in own}
            schema["required"] = sorted({*schema["required"], *(schema["properties"].keys() & {"max_tokens"})})
    return told


def hold(told: dict[str, Any], url: str, path: str, mode: Any, examples: int) -> list[int]:
    """Calls, and checks each reply. The statuses that came."""
    operation = schemathesis.openapi.from_dict(told)[path]["POST"]
    statuses = []

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        response = case.call(base_url=url, timeout=SECONDS)
        statuses.append(response.status_code)
        case.validate_response(response, checks=CHECKS)

    run()
    return statuses


@pytest.mark.parametrize("path", PATHS)
def test_bodies_that_are_computed(whole: Any, tiny_model: Path, path: str) -> None:
    told = computable(whole.get("/openapi.json").json(), str(tiny_model))
    statuses = hold(told, whole.url, path, GenerationMode.POSITIVE, 60)
    if path not in ("/v1/rerank", "/v1/score"):  # the tiny model has no tokens "yes" and "no"
        assert statuses.count(200) >= 3, statuses


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", PATHS)
def test_any_body(whole: Any, path: str, mode: Any) -> None:
    statuses = hold(whole.get("/openapi.json").json(), whole.url, path, mode, 40)
    assert set(statuses) <= {200, 400, 404, 413}, set(statuses)


def test_every_route_of_a_whole_server_is_told(whole: Any) -> None:
    told = whole.get("/openapi.json").json()
    assert {"/v1/files", "/v1/batches/{batch_id}/cancel", "/v1/feedback", "/v1/messages"} <= told["paths"].keys()
