"""What a client may ask of Ollama's API, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, SkipValidation, field_validator, model_validator

from landrace.engine.sampling_params import SamplingParams
from landrace.server.chats.chat import Chat, Thoughts
from landrace.server.fields import Fields, Neutral
from landrace.server.http.errors import FieldError, require_type
from landrace.server.lengths import most_tokens
from landrace.server.ollama.conversation import house_messages
from landrace.server.openai.conversation import checked_tools
from landrace.text.guides import Guide

_SAME = ("temperature", "top_k", "top_p", "min_p", "seed", "presence_penalty", "frequency_penalty")
_OPTIONS = {
    **{name: f"options.{name}" for name in (*_SAME, "stop")},
    "repetition_penalty": "options.repeat_penalty",
    "max_tokens": "options.num_predict",
}
"""What an option is called where an error is about it."""
OF_A_MACHINE: Mapping[str, Neutral] = {
    **dict.fromkeys(("num_batch", "num_gpu", "main_gpu", "num_thread"), int),
    **dict.fromkeys(("f16_kv", "low_vram", "numa", "use_mlock", "use_mmap"), bool),
}
"""How the machine is used is the operator's to say; it changes no answer."""


class Options(Fields):
    """How tokens are drawn. Those that are not given are the model's own, as everywhere here, not Ollama's."""

    neutral: ClassVar[Mapping[str, Neutral]] = {
        **OF_A_MACHINE,
        "embedding_only": (False,),
        "logits_all": (False,),
        "mirostat": (0,),
        "num_keep": (),
        "penalize_newline": (True,),
        "repeat_last_n": (-1,),
        "tfs_z": (1, 1.0),
        "typical_p": (1, 1.0),
        "vocab_only": (False,),
    }
    place: ClassVar[str] = "options"

    num_ctx: Annotated[int, Field(ge=1)] | None = None
    num_predict: Annotated[int, Field(ge=-1)] | None = None
    stop: list[str] = Field(default_factory=list)
    # Ranges are checked by `SamplingParams`.
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def sampling(self, n_prompt: int, max_length: int, *, shifts: bool) -> SamplingParams:
        """`num_ctx` may be less than the longest sequence, not more. Raises RequestError."""
        if self.num_ctx is not None and self.num_ctx > max_length:
            raise FieldError(
                f"The longest sequence here has {max_length} tokens; options.num_ctx is {self.num_ctx}.",
                field="options.num_ctx",
            )
        length = self.num_ctx or max_length
        asked = None if self.num_predict == -1 else self.num_predict
        given = {name: getattr(self, name) for name in _SAME}
        given["seed"] = None if self.seed == -1 else self.seed
        given["repetition_penalty"] = self.repeat_penalty
        room = most_tokens(None, n_prompt, length, shifts=shifts, field="options.num_predict")
        return SamplingParams(
            max_tokens=room if asked is None else asked if shifts else min(asked, room),
            stop=tuple(self.stop),
            **{name: value for name, value in given.items() if value is not None},
        )


def _checked_keep_alive(value: Any) -> Any:
    if type(value) not in (int, float, str):
        raise FieldError("keep_alive must be a duration.", field="keep_alive", code="invalid_type")
    return value


check_keep_alive = AfterValidator(_checked_keep_alive)
"""For a field that says how long a model is to stay open, which is the operator's to say."""


class _Request(Fields):
    """The fields that chats and texts share."""

    neutral: ClassVar[Mapping[str, Neutral]] = {
        "logprobs": (False,),
        "shift": (False,),
        "top_logprobs": (0,),
        "truncate": (False,),
    }
    names: ClassVar[Mapping[str, str]]
    """What the API calls the fields that the house calls otherwise."""

    model: str
    stream: bool = True
    options: Options = Field(default_factory=Options)
    # What they say is checked by `said`, `thoughts` and `check_keep_alive`.
    format: SkipValidation[Any] = None
    think: SkipValidation[Any] = None
    keep_alive: Annotated[SkipValidation[Any], check_keep_alive] = None

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        _ = self.said, self.thoughts
        return self

    @cached_property
    def said(self) -> Guide | None:
        """What the answer is held to. Raises FieldError."""
        if self.format in (None, ""):
            return None
        if self.format == "json":
            return Guide.of_json_object()
        if not isinstance(self.format, dict):
            raise FieldError('format must be "json" or a JSON schema.', field="format")
        return Guide.of_schema(self.format)

    @cached_property
    def thoughts(self) -> tuple[Thoughts, str | None]:
        """Whether to think, and how much. Raises FieldError."""
        if isinstance(self.think, bool):
            return ("on" if self.think else "off"), None
        if self.think is not None:
            require_type(self.think, str, "think")
        return None, self.think

    def _chat(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> Chat:
        thoughts, effort = self.thoughts
        return Chat(messages, tools or [], said=self.said, thoughts=thoughts, effort=effort, names=self.names)


_NAMES = {**_OPTIONS, "enable_thinking": "think", "reasoning_effort": "think", "guide": "format"}


class ChatRequest(_Request):
    """POST /api/chat."""

    names: ClassVar[Mapping[str, str]] = {**_NAMES, "prompt": "messages"}

    messages: Annotated[SkipValidation[list[dict[str, Any]]], AfterValidator(house_messages)] = Field(
        default_factory=list
    )
    tools: Annotated[SkipValidation[list[dict[str, Any]]], AfterValidator(checked_tools)] = Field(default_factory=list)

    @property
    def chat(self) -> Chat | None:
        """What is asked; None where there are no messages, which asks for the model to be open."""
        return self._chat(self.messages, self.tools) if self.messages else None


class GenerateRequest(_Request):
    """POST /api/generate."""

    neutral: ClassVar[Mapping[str, Neutral]] = {
        **_Request.neutral,
        "context": ([],),
        "images": ([],),
        "suffix": ("",),
        "template": ("",),
    }
    names: ClassVar[Mapping[str, str]] = {**_NAMES, "messages": "prompt"}

    prompt: str = ""
    system: str | None = None
    raw: bool = False

    @model_validator(mode="after")
    def _raw_is_raw(self) -> Self:
        for name in ("system", "think"):
            if self.raw and getattr(self, name):
                raise FieldError(f"With raw, the prompt is all there is; {name} has no place in it.", field=name)
        return self

    @property
    def chat(self) -> Chat | None:
        """What is asked; None where the prompt is raw, or where there is none."""
        if self.raw or not self.prompt:
            return None
        first = [{"role": "system", "content": self.system}] if self.system else []
        return self._chat([*first, {"role": "user", "content": self.prompt}])
