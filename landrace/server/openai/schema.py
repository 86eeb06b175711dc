"""What a client may ask, field by field. Every field is honoured, asks for nothing, or is refused by name."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, SkipValidation, WithJsonSchema, field_validator, model_validator

from landrace.engine.sampling_params import SamplingParams
from landrace.server.chats.chat import Chat
from landrace.server.chats.tool_choice import ToolChoice
from landrace.server.fields import ONE_OR_SEVERAL, TEXTS_OR_IDS, Fields
from landrace.server.http.errors import FieldError
from landrace.server.lengths import most_tokens
from landrace.server.openai.conversation import checked_messages, checked_tools
from landrace.server.openai.structured import GUIDED, field_of_guide, said_guide
from landrace.server.openai.tool_choice import nested_name, tool_choice
from landrace.server.openai.unsupported import OF_A_CALL
from landrace.server.sampling_fields import SamplingFields
from landrace.text.guides import Guide

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
DEFAULT_COMPLETION_TOKENS = 16
"""What the API's older endpoint generates when no max_tokens is given."""

_TEMPLATE_ARGUMENTS = frozenset({"self", "tokenizer", "messages", "tools", "add_generation_prompt", "limit"})


def checked_variables(value: dict[str, Any]) -> dict[str, Any]:
    """Further variables of a chat template. Raises ValueError for one that is the server's own."""
    for name in sorted(_TEMPLATE_ARGUMENTS & value.keys()):
        raise ValueError(f"chat_template_kwargs cannot set {name!r}: the server does.")
    return value


class StreamOptions(Fields):
    """What a stream carries besides the answer."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Whether chunks are filled up with random letters, so that their sizes tell nothing of the text."""


class _Request(SamplingFields):
    """The fields both endpoints share."""

    neutral = OF_A_CALL

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    best_of: int | None = None
    max_tokens: int | None = None
    stop: Annotated[list[str], WithJsonSchema(ONE_OR_SEVERAL)] = Field(default_factory=list)
    # What is in them is checked by `SamplingParams`.
    stop_token_ids: list[int] = Field(default_factory=list)
    logit_bias: dict[str, float] = Field(default_factory=dict)
    # What they say is checked by `said_guide`.
    response_format: SkipValidation[Any] = None
    structured_outputs: SkipValidation[Any] = None
    guided_json: SkipValidation[Any] = None
    guided_regex: SkipValidation[Any] = None
    guided_choice: SkipValidation[Any] = None
    guided_grammar: SkipValidation[Any] = None
    include_timings: bool = False
    """Whether the reply, or the end of a stream, tells seconds and speeds."""

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_or_several(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [value]
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        raise ValueError("stop must be a string or a list of strings.")

    @model_validator(mode="after")
    def _options_need_what_they_belong_to(self) -> Self:
        if self.stream_options not in (None, StreamOptions()) and not self.stream:
            raise FieldError("stream_options needs stream to be true.", field="stream_options")
        if self.best_of not in (None, self.n):
            raise FieldError(
                f"best_of is {self.best_of} and n is {self.n}: answers are not ranked, so that all of them are sent.",
                field="best_of",
                code="unsupported_parameter",
                hint="Leave best_of out.",
            )
        return self

    @model_validator(mode="after")
    def _answers_are_one_thing(self) -> Self:
        _ = self.said_guide
        return self

    @cached_property
    def said_guide(self) -> Guide | None:
        """What the answer is held to, or what it says where it calls no tool; None where nothing asks for it."""
        return said_guide(self.response_format, self.structured_outputs, self.guided)

    @property
    def guided(self) -> dict[str, Any]:
        """What came under the older names of `structured_outputs`' fields."""
        return {name: value for name in GUIDED if (value := getattr(self, name)) is not None}

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def include_obfuscation(self) -> bool:
        """Whether a stream's chunks hide how long their texts are."""
        return self.stream_options is not None and self.stream_options.include_obfuscation

    def _sampling(self, **own: Any) -> SamplingParams:
        """`own`: what the endpoint's own fields say."""
        return SamplingParams(
            stop=tuple(self.stop),
            stop_token_ids=tuple(self.stop_token_ids),
            logit_bias={_token_id(key): bias for key, bias in self.logit_bias.items()},
            **own,
            **self.draws,
        )


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    # As `prompt` below, long lists are not the library's to check: it would keep the interpreter's lock all the while.
    messages: Annotated[SkipValidation[list[dict[str, Any]]], AfterValidator(checked_messages)]
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(checked_variables)] = Field(default_factory=dict)
    tools: Annotated[SkipValidation[list[dict[str, Any]]], AfterValidator(checked_tools)] = Field(default_factory=list)
    # What it says is checked by `choice`.
    tool_choice: SkipValidation[Any] = "auto"
    parallel_tool_calls: bool = True
    store: bool = False
    reasoning_effort: str | None = None
    thinking_budget: int | None = None

    @model_validator(mode="after")
    def _tools_are_there_to_choose(self) -> Self:
        _ = self.choice
        return self

    @cached_property
    def choice(self) -> ToolChoice:
        """Which tools may be called, or must."""
        return tool_choice(self.tool_choice, self.tools, self.parallel_tool_calls, nested_name)

    @property
    def chat(self) -> Chat:
        """What is asked."""
        is_off = self.reasoning_effort == "none"
        return Chat(
            self.messages,
            self.tools,
            self.choice,
            self.said_guide,
            thoughts="off" if is_off else None,
            effort=None if is_off else self.reasoning_effort,
            variables=self.chat_template_kwargs,
            names={
                "prompt": "messages",
                "enable_thinking": "reasoning_effort",
                "guide": field_of_guide(self.response_format, self.guided),
            },
        )

    def sampling(self, n_prompt: int, max_length: int, *, shifts: bool = False) -> SamplingParams:
        """`n_prompt` is the prompt's length in tokens, `max_length` the longest sequence's, unless it `shifts`. Raises
        RequestError."""
        if self.top_logprobs and not self.logprobs:
            raise FieldError("top_logprobs needs logprobs to be true.", field="top_logprobs")
        # `max_tokens` is the older name of `max_completion_tokens`.
        given = {"max_completion_tokens": self.max_completion_tokens, "max_tokens": self.max_tokens}
        for name, value in given.items():
            if value is not None and value < 1:
                raise FieldError(f"{name} must be at least 1, not {value}.", field=name)
        if None not in given.values() and len(set(given.values())) > 1:
            raise FieldError("max_tokens and max_completion_tokens differ; send one of them.", field="max_tokens")
        name, asked = next(((name, value) for name, value in given.items() if value is not None), ("", None))
        return self._sampling(
            max_tokens=most_tokens(asked, n_prompt, max_length, shifts=shifts, field=name),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            prompt_logprobs_from=None,
            thinking_budget=self.thinking_budget,
        )


class CompletionRequest(_Request):
    """POST /v1/completions."""

    prompt: Annotated[SkipValidation[list[str | list[int]]], WithJsonSchema(TEXTS_OR_IDS)]
    """One entry a prompt: text, or token ids."""
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool = False

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_prompt_or_several(cls, value: Any) -> list[str | list[int]]:
        several = [value] if isinstance(value, str) or _is_ids(value) else value
        if isinstance(several, list) and several and all(isinstance(one, str) or _is_ids(one) for one in several):
            return several
        raise ValueError("prompt must be a text, a list of token ids, or a list of texts or of lists of token ids.")

    def sampling(self, n_prompt: int, max_length: int, *, shifts: bool = False) -> SamplingParams:
        """`n_prompt` is the prompt's length in tokens, `max_length` the longest sequence's, unless it `shifts`. Raises
        RequestError."""
        if self.max_tokens is not None and self.max_tokens < 0:
            raise FieldError(f"max_tokens must be at least 0, not {self.max_tokens}.", field="max_tokens")
        max_tokens = most_tokens(
            self.max_tokens,
            n_prompt,
            max_length,
            shifts=shifts,
            field="max_tokens",
            default=DEFAULT_COMPLETION_TOKENS,
        )
        if max_tokens == 0 and not self.echo:
            raise FieldError("max_tokens must be at least 1 unless echo is true.", field="max_tokens")
        if max_tokens == 0 and n_prompt == 1:
            raise FieldError("With max_tokens 0 the prompt needs two tokens or more.", field="max_tokens")
        # The first token has nothing before it, so there is nothing to score in a prompt of one.
        scores_prompt = self.echo and n_prompt > 1 and (self.logprobs is not None or max_tokens == 0)
        return self._sampling(
            max_tokens=max_tokens, logprobs=self.logprobs, prompt_logprobs_from=1 if scores_prompt else None
        )


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _token_id(key: str) -> int:
    if re.fullmatch("0|[1-9][0-9]{0,9}", key) is None:  # one spelling an id, so that none can be given twice
        raise FieldError(f"logit_bias names {key!r}, which is not a token id.", field="logit_bias")
    return int(key)
