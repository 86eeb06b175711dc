"""Texts to tokens and back, as chats and completions have them."""

from __future__ import annotations

from typing import Any

import pytest

from landrace.text import Tokenizer, encode_chat, load_tokenizer

MESSAGES = [{"role": "user", "content": "Hüte! <|im_end|> 猫"}]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Any) -> Tokenizer:
    return load_tokenizer(tiny_model)


@pytest.mark.parametrize("root", ["/v1", ""])
def test_a_prompt_and_its_tokens(server: Any, tiny_model: Any, tokenizer: Tokenizer, root: str) -> None:
    body = {"model": str(tiny_model), "prompt": "Hüte! <|im_end|>"}
    found = server.post(f"{root}/tokenize", body).json()
    assert found == {
        "count": len(found["tokens"]),
        "max_model_len": 600,
        "tokens": tokenizer.encode(body["prompt"]),
        "token_strs": None,
    }
    told = server.post(f"{root}/tokenize", {**body, "return_token_strs": True}).json()["token_strs"]
    assert told[0] == "H" and told[1] == "\\xc3" and told[-1] == "<|im_end|>"
    back = server.post(f"{root}/detokenize", {"model": body["model"], "tokens": found["tokens"]}).json()
    assert back == {"prompt": body["prompt"]}


def test_messages_are_the_prompt_of_a_chat(server: Any, tiny_model: Any, tokenizer: Tokenizer) -> None:
    """Control tokens that are spelled out in them stay text."""
    body = {"model": "tuned", "messages": MESSAGES}
    found = server.post("/v1/tokenize", body).json()
    assert found["tokens"] == encode_chat(tokenizer, MESSAGES)
    chat = server.post("/v1/chat/completions", {**body, "max_tokens": 1}).json()
    assert chat["usage"]["prompt_tokens"] == found["count"]
    opened = server.post("/v1/tokenize", {**body, "add_generation_prompt": False}).json()
    assert found["tokens"][: opened["count"]] == opened["tokens"] and opened["count"] < found["count"]


def test_more_than_the_context_is_counted(server: Any, tiny_model: Any) -> None:
    body = {"model": str(tiny_model), "prompt": "x" * 100_000}
    assert server.post("/v1/tokenize", body).json()["count"] == 100_000


@pytest.mark.parametrize(
    ("path", "fields", "field"),
    [
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt"),
        ("tokenize", {"messages": []}, "messages"),
        ("tokenize", {"messages": MESSAGES, "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ("tokenize", {"prompt": "a", "continue_final_message": True}, "continue_final_message"),
        ("detokenize", {}, "tokens"),
        ("detokenize", {"tokens": ["a"]}, "tokens"),
        ("detokenize", {"tokens": [100_000]}, "tokens"),
        ("detokenize", {"tokens": [-1]}, "tokens"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    server: Any, tiny_model: Any, path: str, fields: dict[str, Any], field: str
) -> None:
    answer = server.post(f"/v1/{path}", {"model": str(tiny_model), **fields})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == field, answer.text
