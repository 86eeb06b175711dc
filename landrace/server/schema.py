"""What a client may ask, field by field. Every field is honoured, refused by name, or listed in `INERT`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, field_validator, model_validator

from landrace.engine.sampling_params import SamplingParams
from landrace.errors import RequestError

INERT = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)
"""Fields of the API that change nothing here: accepted, and dropped before validation."""

UNSUPPORTED = frozenset(
    {
        *("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
        *("audio", "modalities", "prediction", "reasoning_effort", "verbosity", "web_search_options"),
        *("moderation", "prompt_cache_options", "suffix", "best_of"),
    }
)
"""Fields of the API that are not implemented: refused, unless they are null."""

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
DEFAULT_COMPLETION_TOKENS = 16
"""What the API's older endpoint generates when no max_tokens is given."""

_PASSED_ON = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "ignore_eos",
)
_TEMPLATE_ARGUMENTS = frozenset({"self", "tokenizer", "messages", "tools", "add_generation_prompt", "limit"})


class StreamOptions(BaseModel):
    """What a stream carries besides the answer."""

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool = False


class ResponseFormat(BaseModel):
    """Only plain text; other formats are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["text"]


class _Request(BaseModel):
    """The fields both endpoints share. A field that is null counts as not given."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    max_tokens: int | None = None
    stop: list[str] = []
    # Ranges are checked by `SamplingParams`.
    stop_token_ids: list[int] = []
    logit_bias: dict[str, float] = {}
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    ignore_eos: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_what_asks_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        may_be_null = cls.model_fields.keys() | UNSUPPORTED
        given = {k: v for k, v in data.items() if k not in INERT and not (v is None and k in may_be_null)}
        for name in given.keys() & (UNSUPPORTED - cls.model_fields.keys()):
            raise RequestError(f"{name} is not implemented.", field=name)
        return given

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_or_several(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [value]
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        raise ValueError("stop must be a string or a list of strings.")

    @model_validator(mode="after")
    def _options_of_a_stream_need_one(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options needs stream to be true.", field="stream_options")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def _sampling(self, *, max_tokens: int, logprobs: int | None, prompt_logprobs_from: int | None) -> SamplingParams:
        return SamplingParams(
            max_tokens=max_tokens,
            stop=tuple(self.stop),
            stop_token_ids=tuple(self.stop_token_ids),
            logit_bias={_token_id(key): bias for key, bias in self.logit_bias.items()},
            logprobs=logprobs,
            prompt_logprobs_from=prompt_logprobs_from,
            **{name: value for name in _PASSED_ON if (value := getattr(self, name)) is not None},
        )


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    messages: SkipValidation[list[dict[str, Any]]]
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] = {}

    @field_validator("messages", mode="before")
    @classmethod
    def _objects(cls, value: Any) -> list[dict[str, Any]]:
        # Checked here, since the library would keep the interpreter's lock over a long list.
        if not isinstance(value, list) or not value:
            raise ValueError("messages must be a list of one message or more.")
        for index, message in enumerate(value):
            if not isinstance(message, dict):
                raise ValueError(f"messages.{index} must be an object with a role and a content.")
        return value

    @field_validator("chat_template_kwargs")
    @classmethod
    def _leaves_the_servers_own_alone(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in sorted(_TEMPLATE_ARGUMENTS & value.keys()):
            raise ValueError(f"chat_template_kwargs cannot set {name!r}: the server does.")
        return value

    def sampling(self, room: int) -> SamplingParams:
        """`room`: how many tokens the context leaves, the default of `max_tokens`. Raises RequestError."""
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs to be true.", field="top_logprobs")
        return self._sampling(
            max_tokens=self._limit(room),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            prompt_logprobs_from=None,
        )

    def _limit(self, room: int) -> int:
        """`max_tokens` is the older name of `max_completion_tokens`."""
        given = {name: v for name in ("max_completion_tokens", "max_tokens") if (v := getattr(self, name)) is not None}
        for name, value in given.items():
            if value < 1:
                raise RequestError(f"{name} must be at least 1, not {value}.", field=name)
        if len(set(given.values())) > 1:
            raise RequestError("max_tokens and max_completion_tokens differ; send one of them.", field="max_tokens")
        return next(iter(given.values()), room)


class CompletionRequest(_Request):
    """POST /v1/completions."""

    prompt: SkipValidation[list[str | list[int]]]
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

    def sampling(self, n_prompt: int) -> SamplingParams:
        """`n_prompt`: the prompt's length in tokens. Raises RequestError."""
        max_tokens = DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens
        if max_tokens == 0 and not self.echo:
            raise RequestError("max_tokens must be at least 1 unless echo is true.", field="max_tokens")
        if max_tokens == 0 and n_prompt == 1:
            raise RequestError("With max_tokens 0 the prompt needs two tokens or more.", field="max_tokens")
        # The first token has nothing before it, so there is nothing to score in a prompt of one.
        scores_prompt = self.echo and n_prompt > 1 and (self.logprobs is not None or max_tokens == 0)
        return self._sampling(
            max_tokens=max_tokens, logprobs=self.logprobs, prompt_logprobs_from=1 if scores_prompt else None
        )


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _token_id(key: str) -> int:
    if re.fullmatch("[0-9]{1,10}", key) is None:
        raise RequestError(f"logit_bias names {key!r}, which is not a token id.", field="logit_bias")
    return int(key)
