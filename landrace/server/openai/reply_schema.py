"""The replies of chats and completions, written down for the document. `replies.py` and `chunks.py` write them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from landrace.server.openapi.description import Told


class PromptDetails(Told):
    """Of the prompt's tokens."""

    cached_tokens: int


class CompletionDetails(Told):
    """Of the answer's tokens."""

    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0
    reasoning_tokens: int = 0


class Usage(Told):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails = Field(default_factory=CompletionDetails)
    dropped_tokens: int = 0


class Timings(Told):
    """Seconds since the call arrived, and speeds."""

    queue_seconds: float
    first_token_seconds: float | None
    seconds: float
    prompt_tokens_per_second: float | None
    generated_tokens_per_second: float | None
    machine_seconds: float
    cost: float = 0.0


class CalledFunction(Told):
    """Its arguments are JSON text."""

    name: str
    arguments: str


class ToolCall(Told):
    """A call of a function."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ToolCallChunk(ToolCall):
    """In a stream calls have numbers."""

    index: int


class Scored(Told):
    """A token and its natural log-probability."""

    token: str
    logprob: float
    bytes: list[int]


class ScoredToken(Scored):
    """With the likeliest ones in its place."""

    top_logprobs: list[Scored]


class ChatLogprobs(Told):
    """Of an answer's tokens."""

    content: list[ScoredToken]
    refusal: None


class Message(Told):
    """The answer to a chat."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning: str = ""
    reasoning_content: str = ""
    tool_calls: list[ToolCall] = Field(default_factory=list)


class Delta(Told):
    """What a chunk brings of it."""

    role: Literal["assistant"] = "assistant"
    content: str = ""
    reasoning: str = ""
    reasoning_content: str = ""
    tool_calls: list[ToolCallChunk] = Field(default_factory=list)


class ChatChoice(Told):
    """One of `n` answers."""

    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatChunkChoice(Told):
    """A piece of one."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class CompletionLogprobs(Told):
    """Of the tokens of prompt and answer, as far as they are scored."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Told):
    """One of `n` answers, or a piece of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class _Reply(Told):
    id: str
    created: int
    model: str
    system_fingerprint: str
    timings: Timings | None = None


class ChatReply(_Reply):
    """A whole answer."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class ChatChunk(_Reply):
    """An event of a stream; the stream ends with `data: [DONE]`."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class CompletionReply(_Reply):
    """A whole answer, or an event of a stream, which has the same shape."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage | None = None
