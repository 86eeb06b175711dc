"""The real model behind the real server: a sensible answer, and the engine's own tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MESSAGES = [{"role": "user", "content": "What is the capital of Germany?"}]


def test_smollm2_answers_over_http_as_the_engine_does(start_server: Any, smollm2_path: Path) -> None:
    server = start_server(str(smollm2_path), "--cache-tokens", "2048")

    from landrace.engine import EngineOptions, Request, SamplingParams
    from landrace.model import open_engine
    from landrace.text import encode_chat

    opened = open_engine(str(smollm2_path), options=EngineOptions(cache_tokens=2048))
    tokenizer = opened.model.tokenizer
    params = SamplingParams(max_tokens=16, temperature=0.0)
    (expected,) = opened.engine.generate([Request("r", tuple(encode_chat(tokenizer, MESSAGES)), params)])

    call = {"model": str(smollm2_path), "messages": MESSAGES, "temperature": 0, "max_tokens": 16, "logprobs": True}
    reply = server.client.chat.completions.create(**call)
    tokens = [bytes(entry.bytes) for entry in reply.choices[0].logprobs.content]
    assert tokens == [tokenizer.token_bytes(token) for token in expected.token_ids]
    assert reply.choices[0].message.content == expected.text
    assert "Berlin" in expected.text
    assert reply.usage.prompt_tokens == expected.prompt_tokens
    stream = server.client.chat.completions.create(stream=True, **call)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == expected.text
    assert server.stop() == 0
