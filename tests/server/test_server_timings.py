"""Seconds and speeds beside an answer, for those who ask; older names of what an answer is held to."""

from __future__ import annotations

import json
from typing import Any

import pytest

ASKED = {"prompt": "Ask", "max_tokens": 6, "ignore_eos": True, "temperature": 0}
TOLD = {
    "queue_seconds",
    "first_token_seconds",
    "seconds",
    "prompt_tokens_per_second",
    "generated_tokens_per_second",
    "machine_seconds",
}


def chunks(server: Any, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    lines = server.post(path, body).text.split("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


def test_timings_come_when_they_are_asked_for(server: Any, tiny_model: Any) -> None:
    body = {"model": str(tiny_model), **ASKED}
    assert "timings" not in server.post("/v1/completions", body).json()
    timings = server.post("/v1/completions", {**body, "include_timings": True}).json()["timings"]
    assert timings.keys() == TOLD and 0 <= timings["queue_seconds"] <= timings["first_token_seconds"]
    assert 0 < timings["first_token_seconds"] <= timings["seconds"] and timings["machine_seconds"] > 0
    assert timings["generated_tokens_per_second"] > 0


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_ends_with_them(server: Any, tiny_model: Any, usage: bool) -> None:
    said = [{"role": "user", "content": "a"}]
    body = {"model": str(tiny_model), "messages": said, "max_tokens": 4, "stream": True, "include_timings": True}
    *others, last = chunks(server, "/v1/chat/completions", {**body, "stream_options": {"include_usage": usage}})
    assert last["choices"] == [] and last["timings"].keys() == TOLD and ("usage" in last) is usage
    assert all("timings" not in chunk for chunk in others)


def test_the_official_client_takes_them(server: Any, tiny_model: Any) -> None:
    body = {"include_timings": True}
    found = server.client.completions.create(model=str(tiny_model), prompt="Ask", max_tokens=3, extra_body=body)
    assert found.model_extra["timings"]["seconds"] > 0


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ({"guided_regex": "[ab]{3}"}, {"regex": "[ab]{3}"}),
        ({"guided_choice": ["left", "right"]}, {"choice": ["left", "right"]}),
        ({"guided_json": {"type": "integer"}}, {"json": {"type": "integer"}}),
        ({"guided_grammar": 'start: "x" "y"'}, {"grammar": 'start: "x" "y"'}),
    ],
)
def test_older_names_ask_for_the_same(
    server: Any, tiny_model: Any, older: dict[str, Any], newer: dict[str, Any]
) -> None:
    body = {"model": str(tiny_model), "prompt": "Ask", "max_tokens": 12, "temperature": 0}
    texts = [
        server.post("/v1/completions", {**body, **asked}).json()["choices"][0]["text"]
        for asked in (older, {"structured_outputs": newer})
    ]
    assert texts[0] == texts[1] != ""


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_regex": "a", "structured_outputs": {"regex": "a"}}, "guided_regex"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_choice": "a"}, "guided_choice"),
        ({"guided_decoding_backend": "xgrammar"}, "guided_decoding_backend"),
        ({"include_timings": "yes"}, "include_timings"),
    ],
)
def test_what_they_cannot_mean_is_refused_by_name(
    server: Any, tiny_model: Any, fields: dict[str, Any], field: str
) -> None:
    answer = server.post("/v1/completions", {"model": str(tiny_model), "prompt": "Ask", **fields})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == field, answer.text
