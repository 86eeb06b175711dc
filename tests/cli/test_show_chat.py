"""`show --chat`: the prompt that a model reads, and its tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from landrace.text import encode_chat, load_tokenizer

Landrace = Callable[..., tuple[int, str, str]]
MESSAGES = [{"role": "user", "content": "H\u1ebf\n<|im_end|>"}]


@pytest.fixture
def chat(tmp_path: Path) -> Callable[[Any], str]:
    def write(value: Any) -> str:
        file = tmp_path / "chat.json"
        file.write_text(json.dumps(value), encoding="utf-8")
        return str(file)

    return write


def test_prompt_and_tokens(landrace: Landrace, tiny_model: Path, chat: Callable[[Any], str]) -> None:
    tokenizer = load_tokenizer(tiny_model)
    status, printed, _ = landrace("show", str(tiny_model), "--chat", chat(MESSAGES))
    assert status == 0
    prompt, _, rest = printed.partition("\n\n")
    assert prompt == "<|im_start|>user\nH\u1ebf\n<|im_end|><|im_end|>\n<|im_start|>assistant"
    lines = rest.strip().splitlines()
    ids = encode_chat(tokenizer, MESSAGES)
    assert lines[-1] == f"{len(ids)} tokens"
    assert [int(line.split()[0]) for line in lines[:-1]] == ids
    assert "\x1b" not in printed  # plain in a pipe
    texts = [tokenizer.token_text(index) for index in tokenizer.special_ids]
    assert all(json.dumps(text) + "  special" in printed for text in texts if text in prompt)


def test_as_json(landrace: Landrace, tiny_model: Path, chat: Callable[[Any], str]) -> None:
    asked = {"messages": MESSAGES, "add_generation_prompt": False, "chat_template_kwargs": {"enable_thinking": False}}
    status, printed, _ = landrace("show", str(tiny_model), "--chat", chat(asked), "--json")
    found = json.loads(printed)
    tokenizer = load_tokenizer(tiny_model)
    assert status == 0
    assert [token["id"] for token in found["tokens"]] == encode_chat(tokenizer, MESSAGES, add_generation_prompt=False)
    assert found["prompt"] == "<|im_start|>user\nH\u1ebf\n<|im_end|><|im_end|>\n"
    for token in found["tokens"]:
        assert token["special"] == (token["id"] in tokenizer.control_ids)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"tools": []}, "holds no conversation"),
        ("hello", "holds no conversation"),
        ({"messages": MESSAGES, "mesages": []}, "has the key 'mesages'"),
        ({"messages": MESSAGES, "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"messages": MESSAGES, "chat_template_kwargs": 3}, "chat_template_kwargs"),
        ([{"role": "user"}], "Message 0 has no content"),
    ],
)
def test_what_is_no_conversation_is_said(
    landrace: Landrace, tiny_model: Path, chat: Callable[[Any], str], value: Any, said: str
) -> None:
    status, printed, told = landrace("show", str(tiny_model), "--chat", chat(value))
    assert status == 1 and not printed and said in told


def test_no_such_file(landrace: Landrace, tiny_model: Path, tmp_path: Path) -> None:
    status, _, told = landrace("show", str(tiny_model), "--chat", str(tmp_path / "none.json"))
    assert status == 1 and "cannot be read as JSON" in told
