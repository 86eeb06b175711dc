"""What a client may ask of Anthropic's API, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, SkipValidation, model_validator

from landrace.engine.sampling_params import SamplingParams
from landrace.server.anthropic.conversation import house_messages, house_tools
from landrace.server.chats.chat import Chat, Thoughts
from landrace.server.chats.tool_choice import ToolChoice
from landrace.server.fields import Fields, Neutral, check_flag, refuse_others, required
from landrace.server.http.errors import FieldError, require_type
from landrace.server.lengths import most_tokens
from landrace.text.guides import Guide

NEUTRAL: Mapping[str, Neutral] = {
    "cache_control": dict,
    "container": (),
    "context_management": ({"edits": []}, {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}),
    "diagnostics": (),
    "inference_geo": (),
    "mcp_servers": ([],),
    "metadata": dict,
    "service_tier": ("auto", "standard_only"),
    "speed": ("standard",),
    "user_profile_id": str,
}
NAMES = {
    "prompt": "messages",
    "enable_thinking": "thinking",
    "thinking_budget": "thinking.budget_tokens",
    "reasoning_effort": "output_config.effort",
    "guide": "output_config.format.schema",
    "stop": "stop_sequences",
}
_THOUGHTS: Mapping[str, Thoughts] = {"enabled": "on", "adaptive": None, "disabled": "off"}
_CHOICES = ("auto", "any", "tool", "none")


class CountRequest(Fields):
    """POST /v1/messages/count_tokens."""

    neutral: ClassVar[Mapping[str, Neutral]] = NEUTRAL

    model: str
    # What they say is checked by `house_messages`, `house_tools`, and below.
    messages: SkipValidation[Any]
    system: SkipValidation[Any] = None
    tools: SkipValidation[Any] = None
    tool_choice: SkipValidation[Any] = None
    thinking: SkipValidation[Any] = None
    output_config: SkipValidation[Any] = None

    @model_validator(mode="after")
    def _is_a_chat(self) -> Self:
        _ = self.chat
        return self

    @cached_property
    def chat(self) -> Chat:
        """What is asked. Raises FieldError."""
        tools = house_tools(self.tools) if self.tools is not None else []
        effort, said = _output(self.output_config)
        thoughts, _, _ = self.thoughts
        return Chat(
            house_messages(self.system, self.messages),
            tools,
            _choice(self.tool_choice).checked(tools),
            said,
            thoughts=thoughts,
            effort=effort,
            names=NAMES,
        )

    @cached_property
    def thoughts(self) -> tuple[Thoughts, int | None, bool]:
        """Whether the model is to think, for how many tokens at most, and whether its thoughts are shown. Who asks for
        none gets none from a model that can do without. Raises FieldError."""
        if self.thinking is None:
            return "off if it can", None, True
        path = "thinking"
        require_type(self.thinking, dict, path)
        kind = required(self.thinking, "type", path, str)
        if kind not in _THOUGHTS:
            raise FieldError(f"{path}.type must be {', '.join(_THOUGHTS)}.", field=f"{path}.type")
        known = {"enabled": ("type", "budget_tokens", "display"), "adaptive": ("type", "display")}.get(kind, ("type",))
        refuse_others(self.thinking, known, path)
        display = self.thinking.get("display")
        if display not in (None, "summarized", "omitted"):
            raise FieldError(f"{path}.display must be summarized or omitted.", field=f"{path}.display")
        budget = required(self.thinking, "budget_tokens", path) if kind == "enabled" else None
        return _THOUGHTS[kind], budget, display != "omitted"


class MessagesRequest(CountRequest):
    """POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1)]
    stream: bool = False
    stop_sequences: list[str] = Field(default_factory=list)
    # Ranges are checked by `SamplingParams`.
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None

    def sampling(self, n_prompt: int, max_length: int, *, shifts: bool) -> SamplingParams:
        """As everywhere; an answer ends where the context does, if that comes before `max_tokens`."""
        given: dict[str, Any] = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        room = most_tokens(None, n_prompt, max_length, shifts=shifts, field="max_tokens")
        return SamplingParams(
            max_tokens=self.max_tokens if shifts else min(self.max_tokens, room),
            stop=tuple(self.stop_sequences),
            thinking_budget=self.thoughts[1],
            **{name: value for name, value in given.items() if value is not None},
        )


def _choice(given: Any) -> ToolChoice:
    if given is None:
        return ToolChoice()
    path = "tool_choice"
    require_type(given, dict, path)
    kind = required(given, "type", path, str)
    if kind not in _CHOICES:
        raise FieldError(f"{path}.type must be {', '.join(_CHOICES)}.", field=f"{path}.type")
    refuse_others(given, ("type", "disable_parallel_tool_use", *(("name",) if kind == "tool" else ())), path)
    check_flag(given, "disable_parallel_tool_use", path)
    names = (required(given, "name", path, str),) if kind == "tool" else None
    several = not given.get("disable_parallel_tool_use")
    return ToolChoice(none=kind == "none", must=kind in ("any", "tool"), names=names, several=several)


def _output(given: Any) -> tuple[str | None, Guide | None]:
    """The effort and the schema of `output_config`."""
    if given is None:
        return None, None
    path = "output_config"
    require_type(given, dict, path)
    refuse_others(given, ("effort", "format"), path)
    effort = given.get("effort")
    if effort is not None:
        require_type(effort, str, f"{path}.effort")
    if given.get("format") is None:
        return effort, None
    path = f"{path}.format"
    form = required(given, "format", "output_config", dict)
    if form.get("type") != "json_schema":
        raise FieldError(f"{path}.type must be json_schema.", field=f"{path}.type")
    refuse_others(form, ("type", "schema"), path)
    return effort, Guide.of_schema(required(form, "schema", path, dict))
