"""What a client may ask, field by field. Every field is honoured, refused, or named in `INERT`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from landrace.engine.sampling_params import SamplingParams
from landrace.errors import RequestError

INERT = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)
"""Fields of the API that change nothing here: accepted, and dropped before validation."""

_PASSED_ON = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "stop_token_ids",
    "ignore_eos",
)


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False


class ResponseFormat(BaseModel):
    """Only plain text; other formats are refused."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]


class _Request(BaseModel):
    """The fields both endpoints share."""

    model_config = ConfigDict(extra="forbid")

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    # Passed on to `SamplingParams`, which checks their ranges.
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop_token_ids: tuple[int, ...] | None = None
    ignore_eos: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_inert(cls, data: Any) -> Any:
        return {k: v for k, v in data.items() if k not in INERT} if isinstance(data, dict) else data

    def _sampling(self, *, max_tokens: int, logprobs: int | None, prompt_logprobs_from: int | None) -> SamplingParams:
        given = {name: value for name in _PASSED_ON if (value := getattr(self, name)) is not None}
        return SamplingParams(
            max_tokens=max_tokens,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            logprobs=logprobs,
            prompt_logprobs_from=prompt_logprobs_from,
            **given,
        )


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)

    def sampling(self, room: int) -> SamplingParams:
        """`room`: how many tokens the context leaves, the default of `max_tokens`."""
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs to be true.", field="top_logprobs")
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        if limit == 0:
            raise RequestError("max_tokens must be at least 1.", field="max_tokens")
        return self._sampling(
            max_tokens=limit if limit is not None else room,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            prompt_logprobs_from=None,
        )


class CompletionRequest(_Request):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool = False

    def prompts(self) -> list[str | list[int]]:
        """One entry a prompt: text, or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)  # type: ignore[arg-type]

    def sampling(self) -> SamplingParams:
        if self.max_tokens == 0 and not self.echo:
            raise RequestError("max_tokens must be at least 1 unless echo is true.", field="max_tokens")
        scores_prompt = self.echo and self.logprobs is not None
        return self._sampling(
            max_tokens=16 if self.max_tokens is None else self.max_tokens,
            logprobs=self.logprobs,
            prompt_logprobs_from=1 if scores_prompt else None,
        )
