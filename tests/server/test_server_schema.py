"""The fields of a request without a server."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from landrace.engine import SamplingParams
from landrace.errors import RequestError
from landrace.server.openai.schema import ChatRequest, CompletionRequest
from landrace.server.openai.unsupported import OF_A_CALL

ROOT = Path(__file__).resolve().parents[2]
CHAT = {"model": "m", "messages": [{"role": "user", "content": "a"}]}


def test_the_http_side_does_not_import_torch() -> None:
    code = "import sys, landrace.server.main, landrace.server.openai.schema; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_every_sampling_field_can_be_asked_for() -> None:
    asked = set(ChatRequest.model_fields) | {"prompt_logprobs_from"}  # `echo` asks for it
    assert {field.name for field in fields(SamplingParams)} <= asked


def test_a_field_is_honoured_or_not_supported_and_never_both() -> None:
    assert not CompletionRequest.model_fields.keys() & OF_A_CALL.keys()
    of_chats = ChatRequest.model_fields.keys() & OF_A_CALL.keys()
    assert of_chats == {"tools", "tool_choice", "parallel_tool_calls", "reasoning_effort", "store"}


def test_null_is_not_given() -> None:
    required = {"model", "messages", "prompt"}
    for kind, own in ((ChatRequest, CHAT), (CompletionRequest, {"model": "m", "prompt": "a"})):
        nulls = dict.fromkeys((kind.model_fields.keys() | OF_A_CALL) - required)
        assert kind.model_validate({**nulls, **own}) == kind.model_validate(own)
    inner = {"stream": True, "stream_options": {"include_usage": None, "include_obfuscation": None}}
    assert ChatRequest.model_validate({**CHAT, **inner}).include_usage is False


def test_the_engines_defaults_are_the_servers() -> None:
    params = ChatRequest.model_validate(CHAT).sampling(5, max_length=82)
    assert params == SamplingParams(max_tokens=77)
    assert CompletionRequest(model="m", prompt=["a"]).sampling(5, 100) == SamplingParams(max_tokens=16)
    assert CompletionRequest(model="m", prompt=["a"]).sampling(5, 9) == SamplingParams(max_tokens=4)


@pytest.mark.parametrize(
    ("given", "prompts"),
    [("a", ["a"]), ([1, 2], [[1, 2]]), (["a", "b"], ["a", "b"]), ([[1], [2, 3]], [[1], [2, 3]]), ("", [""])],
)
def test_prompts(given: object, prompts: list[object]) -> None:
    assert CompletionRequest.model_validate({"model": "m", "prompt": given}).prompt == prompts


def test_both_names_of_a_limit_may_agree() -> None:
    both = ChatRequest.model_validate({**CHAT, "max_tokens": 4, "max_completion_tokens": 4})
    assert both.sampling(1, 10).max_tokens == 4
    with pytest.raises(RequestError, match="differ"):
        ChatRequest.model_validate({**CHAT, "max_tokens": 4, "max_completion_tokens": 5}).sampling(1, 10)


def test_a_sequence_that_shifts_has_no_limit() -> None:
    """What is asked for stands; what is not is what is left of a sequence, or half of one."""
    chat = ChatRequest.model_validate(CHAT)
    asked = chat.model_copy(update={"max_tokens": 5000, "max_completion_tokens": None})
    assert asked.sampling(500, 100, shifts=True).max_tokens == 5000
    bare = chat.model_copy(update={"max_tokens": None, "max_completion_tokens": None})
    assert [bare.sampling(n, 100, shifts=True).max_tokens for n in (10, 90, 500)] == [90, 50, 50]
    with pytest.raises(RequestError):
        bare.sampling(500, 100)
