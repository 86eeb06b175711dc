"""What the soak asks: questions that have one answer each, in the words of every API, and calls that go wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

CHAT, COMPLETION, RESPONSE = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGE, EMBEDDING, TOKENIZE = "/v1/messages", "/v1/embeddings", "/v1/tokenize"
JSON = {"Content-Type": "application/json"}
_WORDS = (
    "a key",
    "two of us",
    "to Bern",
    "in the morning",
    "why not",
    "a leak",
    "Katze",
    "the door code",
    "猫",
    "again",
)
_SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["yes", "no"]}, "b": {"type": "boolean"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
_REASONS = "finish_reason"


@dataclass(frozen=True)
class Question:
    """A call that is as it should be. Its answer is greedy or has a seed, so there is only one."""

    path: str
    body: dict[str, Any]
    rows: int
    """Of usage in the ledger."""

    @property
    def streams(self) -> bool:
        return self.path not in (EMBEDDING, TOKENIZE)


def questions(rng: Random, models: Iterable[str], count: int) -> list[Question]:
    """`count` of each kind, about equally for each model."""
    names = list(models)
    return [
        make(rng, names[n % len(names)])
        for n in range(count)
        for make in (_chat, _completion, _response, _message, _embedding, _tokenize, _structured, _several, _patterned)
    ]


def long_chat(rng: Random, model: str) -> Question:
    """One that is left before it ends."""
    asked = _chat(rng, model)
    return Question(CHAT, {**asked.body, "max_tokens": 300, "ignore_eos": True}, 1)


def _text(rng: Random) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(1, 12)))


def _drawn(rng: Random) -> dict[str, Any]:
    return {"temperature": 0} if rng.random() < 0.7 else {"temperature": 1.1, "seed": rng.randrange(1000)}


def _chat(rng: Random, model: str) -> Question:
    messages = [{"role": "user", "content": _text(rng)}]
    if rng.random() < 0.5:
        messages.insert(0, {"role": "system", "content": "You are brief, friendly and know the house."})
    body = {"model": model, "messages": messages, "max_tokens": rng.randint(2, 24), "logprobs": True, **_drawn(rng)}
    return Question(CHAT, body, 1)


def _completion(rng: Random, model: str) -> Question:
    ends = {"ignore_eos": True, "logprobs": 0}
    return Question(
        COMPLETION, {"model": model, "prompt": _text(rng), "max_tokens": rng.randint(2, 24), **ends, **_drawn(rng)}, 1
    )


def _several(rng: Random, model: str) -> Question:
    asked = _completion(rng, model)
    n, prompts = rng.randint(2, 3), [_text(rng) for _ in range(rng.randint(1, 2))]
    return Question(COMPLETION, {**asked.body, "prompt": prompts, "n": n}, n * len(prompts))


def _response(rng: Random, model: str) -> Question:
    return Question(RESPONSE, {"model": model, "input": _text(rng), "max_output_tokens": 16, "temperature": 0}, 1)


def _message(rng: Random, model: str) -> Question:
    said = [{"role": "user", "content": _text(rng)}]
    return Question(MESSAGE, {"model": model, "messages": said, "max_tokens": 16, "temperature": 0}, 1)


def _embedding(rng: Random, model: str) -> Question:
    texts = [_text(rng) for _ in range(rng.randint(1, 3))]
    return Question(EMBEDDING, {"model": model, "input": texts, "encoding_format": "float"}, 1)


def _tokenize(rng: Random, model: str) -> Question:
    return Question(TOKENIZE, {"model": model, "prompt": _text(rng)}, 0)


def _structured(rng: Random, model: str) -> Question:
    schema = {"type": "json_schema", "json_schema": {"name": "it", "schema": _SCHEMA}}
    asked = _chat(rng, model)
    return Question(CHAT, {**asked.body, "max_tokens": 40, "response_format": schema}, 1)


def _patterned(rng: Random, model: str) -> Question:
    asked = _completion(rng, model)
    body = {**asked.body, "structured_outputs": {"regex": "[a-c]{3,9}!"}, "ignore_eos": False, "max_tokens": 20}
    return Question(COMPLETION, body, 1)


def bad_call(rng: Random, model: str) -> tuple[str, bytes, int]:
    """Path and body of a call that is refused, and the status."""
    asked = rng.choice((_chat, _completion))(rng, model)
    wrong: list[tuple[dict[str, Any], int]] = [
        ({"max_tokens": 10**6}, 400),
        ({"max_tokens": "many"}, 400),
        ({"temperature": -1}, 400),
        ({"no_such_field": 1}, 400),
        ({"messages": 3, "prompt": None}, 400),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "zebra"}}}}, 400),
        ({"model": "nobody"}, 404),
        ({"model": "tune"}, 404),
    ]
    if rng.random() < 0.2:
        return asked.path, json.dumps(asked.body).encode()[: rng.randrange(1, 20)], 400
    change, status = rng.choice(wrong)
    return asked.path, json.dumps({**asked.body, **change}).encode(), status


def said(path: str, body: dict[str, Any]) -> Any:
    """What two answers to one question have in common: tokens with their log-probabilities where the API tells them,
    texts, and how they ended."""
    if path in (CHAT, COMPLETION):
        choices = sorted(body["choices"], key=lambda choice: choice["index"])
        return [
            (one.get("text", one.get("message", {}).get("content")), _scored(one["logprobs"]), one[_REASONS])
            for one in choices
        ]
    if path == RESPONSE:
        return [part["text"] for item in body["output"] for part in item.get("content", [])], body["status"]
    if path == MESSAGE:
        return [block["text"] for block in body["content"]], body["stop_reason"]
    return [entry["embedding"] for entry in body["data"]] if path == EMBEDDING else body["tokens"]


def _scored(logprobs: dict[str, Any] | None) -> list[tuple[str, float]]:
    if logprobs is None:
        return []
    if "tokens" in logprobs:
        return list(zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True))
    return [(token["token"], token["logprob"]) for token in logprobs["content"]]


def events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """What a stream says; what is no data says nothing more."""
    for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def response_id(event: dict[str, Any]) -> str | None:
    """By which the ledger knows the answer that an event or a body belongs to."""
    found = event.get("id") or event.get("response", event.get("message", {})).get("id")
    return None if found is None else str(found)


def error_of(event: dict[str, Any]) -> dict[str, Any] | None:
    """The error that an event or a body tells, whatever the API."""
    error = event.get("error") or event.get("response", {}).get("error")
    return None if error is None else dict(error)


def name_of(error: dict[str, Any]) -> str | None:
    """The word for it: Anthropic's errors have a type only."""
    code = error.get("code")
    return error["type"] if code is None and error.get("type") == "overloaded_error" else code


def whole(path: str, told: list[dict[str, Any]]) -> dict[str, Any]:
    """The body that a stream's events come to."""
    if path == RESPONSE:
        return dict(told[-1]["response"])
    if path == MESSAGE:
        blocks: dict[int, str] = {}
        for event in told:
            if event["type"] == "content_block_start":
                blocks[event["index"]] = ""
            elif event["type"] == "content_block_delta":
                blocks[event["index"]] += event["delta"]["text"]
        content = [{"text": text} for text in blocks.values()]
        return {"content": content, "stop_reason": told[-2]["delta"]["stop_reason"]}
    choices: dict[int, dict[str, Any]] = {}
    for event in told:
        for chunk in event["choices"]:
            _take(choices.setdefault(chunk["index"], {"index": chunk["index"], "logprobs": None}), chunk)
    return {"choices": list(choices.values())}


def _take(choice: dict[str, Any], chunk: dict[str, Any]) -> None:
    choice[_REASONS] = chunk[_REASONS]
    if "text" in chunk:
        choice["text"] = choice.get("text", "") + chunk["text"]
    else:
        message = choice.setdefault("message", {"content": ""})
        message["content"] += chunk["delta"].get("content") or ""
    new = chunk.get("logprobs")
    if new is None:
        return
    kept = choice["logprobs"] = choice["logprobs"] or {name: [] for name, value in new.items() if value is not None}
    for name, values in kept.items():
        values += new[name]
