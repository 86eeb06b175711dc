"""Every field that the official client can send is honoured, neutral, or refused by its own name."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types import shared_params as shared
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageFunctionToolCallParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat import completion_create_params as chat_params

from landrace.server.fields import Fields
from landrace.server.openai.schema import ChatRequest, CompletionRequest, StreamOptions
from landrace.server.openai.structured import _OF_FORMAT, _OF_SCHEMA
from landrace.server.openai.unsupported import OF_A_MESSAGE
from landrace.server.vectors.schema import EmbeddingRequest


def fields_of(*kinds: Any) -> set[str]:
    """Of all of them, inherited ones included."""
    return {name for kind in kinds for name in kind.__annotations__}


@pytest.mark.parametrize(
    ("kinds", "form"),
    [
        ((chat_params.CompletionCreateParamsNonStreaming, chat_params.CompletionCreateParamsStreaming), ChatRequest),
        (
            (
                completion_create_params.CompletionCreateParamsNonStreaming,
                completion_create_params.CompletionCreateParamsStreaming,
            ),
            CompletionRequest,
        ),
        ((embedding_create_params.EmbeddingCreateParams,), EmbeddingRequest),
        ((ChatCompletionStreamOptionsParam,), StreamOptions),
    ],
)
def test_every_field_of_a_body_is_known(kinds: tuple[Any, ...], form: type[Fields]) -> None:
    sent = fields_of(*kinds)
    assert sent, "the client's types have moved"
    assert sent - form.model_fields.keys() - form.neutral.keys() == set()


def test_every_field_of_what_is_inside_is_known() -> None:
    messages = fields_of(
        ChatCompletionAssistantMessageParam,
        ChatCompletionDeveloperMessageParam,
        ChatCompletionSystemMessageParam,
        ChatCompletionToolMessageParam,
        ChatCompletionUserMessageParam,
    )
    honoured = {"role", "content", "name", "tool_calls", "tool_call_id"}
    assert messages - honoured - OF_A_MESSAGE.keys() == set()
    assert fields_of(ChatCompletionFunctionToolParam) == {"type", "function"}
    assert fields_of(shared.FunctionDefinition) == {"name", "description", "parameters", "strict"}
    assert fields_of(ChatCompletionMessageFunctionToolCallParam) == {"id", "type", "function"}
    assert fields_of(shared.ResponseFormatJSONSchema) == set(_OF_FORMAT["json_schema"])
    schema = shared.response_format_json_schema.JSONSchema
    assert fields_of(schema) == set(_OF_SCHEMA)
