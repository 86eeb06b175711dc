"""What a client may ask of a response, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, SkipValidation, model_validator

from landrace.engine.sampling_params import SamplingParams
from landrace.server.chats.chat import Chat
from landrace.server.fields import Fields, Neutral
from landrace.server.http.errors import FieldError
from landrace.server.lengths import most_tokens
from landrace.server.openai.structured import flat_format
from landrace.server.openai.tool_choice import flat_name, tool_choice
from landrace.server.responses.items import house_messages, house_tools
from landrace.server.sampling_fields import SamplingFields

NEUTRAL: Mapping[str, Neutral] = {
    "access_programs": (),
    "background": (False,),
    "background_options": (),
    "context_management": ([],),
    "conversation": (),
    "image": (),
    "include": ([], ["reasoning.encrypted_content"]),
    "max_tool_calls": (),
    "moderation": (),
    "previous_response_id": (),
    "prompt": (),
    "prompt_cache_key": str,
    "prompt_cache_options": (),
    "prompt_cache_retention": str,
    "safety_identifier": str,
    "service_tier": ("auto", "default"),
    "store": (False,),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
    "user": str,
}
"""Thoughts come as they are, so that nobody needs them encrypted."""
NAMES = {
    "prompt": "input",
    "messages": "input",
    "enable_thinking": "reasoning.effort",
    "reasoning_effort": "reasoning.effort",
    "guide": "text.format.schema",
    "max_tokens": "max_output_tokens",
}


class StreamOptions(Fields):
    """What a stream carries besides the answer."""

    include_obfuscation: bool = False


class Reasoning(Fields):
    """How much to think."""

    neutral: ClassVar[Mapping[str, Neutral]] = {
        "context": ("auto",),
        "generate_summary": ("auto",),
        "mode": ("standard",),
        "summary": ("auto",),
    }
    place: ClassVar[str] = "reasoning"

    effort: str | None = None


class Text(Fields):
    """What the answer is to be."""

    neutral: ClassVar[Mapping[str, Neutral]] = {"verbosity": ("medium",)}
    place: ClassVar[str] = "text"

    # What it says is checked by `flat_format`.
    format: SkipValidation[Any] = None


class ResponseRequest(SamplingFields):
    """POST /v1/responses."""

    neutral: ClassVar[Mapping[str, Neutral]] = NEUTRAL

    model: str
    # What they say is checked by `chat`.
    input: SkipValidation[Any]
    tools: SkipValidation[Any] = Field(default_factory=list)
    tool_choice: SkipValidation[Any] = "auto"
    instructions: str | None = None
    parallel_tool_calls: bool = True
    reasoning: Reasoning = Field(default_factory=Reasoning)
    thinking_budget: int | None = None
    text: Text = Field(default_factory=Text)
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _is_a_chat(self) -> Self:
        if self.stream_options not in (None, StreamOptions()) and not self.stream:
            raise FieldError("stream_options needs stream to be true.", field="stream_options")
        _ = self.chat
        return self

    @cached_property
    def chat(self) -> Chat:
        """What is asked. Raises FieldError."""
        tools = house_tools(self.tools)
        effort = self.reasoning.effort
        return Chat(
            house_messages(self.instructions, self.input),
            tools,
            tool_choice(self.tool_choice, tools, self.parallel_tool_calls, flat_name),
            None if self.text.format is None else flat_format(self.text.format, "text.format"),
            thoughts="off" if effort == "none" else None,
            effort=None if effort == "none" else effort,
            names=NAMES,
        )

    @property
    def obfuscates(self) -> bool:
        """Whether events hide how long their texts are."""
        return self.stream_options is not None and self.stream_options.include_obfuscation

    def sampling(self, n_prompt: int, max_length: int, *, shifts: bool) -> SamplingParams:
        """As everywhere. Raises RequestError."""
        asked = self.max_output_tokens
        return SamplingParams(
            max_tokens=most_tokens(asked, n_prompt, max_length, shifts=shifts, field="max_output_tokens"),
            thinking_budget=self.thinking_budget,
            **self.draws,
        )
