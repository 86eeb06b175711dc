"""`LineReply`: an answer of Ollama's API, whole or as lines of JSON."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from landrace.engine.outputs import StepOutput
from landrace.errors import LandraceError
from landrace.server import wire
from landrace.server.generation import Choice, Generation
from landrace.server.http import error_shapes
from landrace.server.http.errors import shaped
from landrace.text.answers import Parts, ToolCall

_NANOSECONDS = 10**9


class LineReply:
    """One answer: `message` of a chat, or `response` to a prompt. A `Reply`."""

    media_type = wire.LINES

    def __init__(self, model: str, *, is_chat: bool) -> None:
        """`model`: as the client called it."""
        self.id = f"ollama-{uuid.uuid4().hex}"
        self._model = model
        self._is_chat = is_chat

    def whole(self, generation: Generation) -> dict[str, Any]:
        (choice,) = generation.choices
        said = self._said(Parts(choice.reasoning, choice.content, tuple(choice.calls)), choice, choice.text)
        return {**self._around(done=True), **said, **_counts(choice)}

    def delta(self, generation: Generation, choice: Choice, output: StepOutput) -> Iterator[str]:
        """What ends an answer is told with its end."""
        said = self._said(choice.brought, choice, output.text)
        if output.finish_reason:
            yield wire.line({**self._around(done=True), **said, **_counts(choice)})
        elif output.text if choice.prompt.answer is None else output.events:
            yield wire.line({**self._around(done=False), **said})

    def closing(self, generation: Generation) -> Iterator[str]:
        return iter(())

    def failure(self, generation: Generation, error: LandraceError) -> Iterator[str]:
        failed = shaped(error)
        _, body = error_shapes.ollama(failed.status, failed.body)
        yield wire.line(body)

    def nothing(self) -> dict[str, Any]:
        """The reply to a call that only wants the model to be open."""
        said = self._words("", "", ())
        return {**self._around(done=True), **said, "done_reason": "load"}

    def _said(self, parts: Parts, choice: Choice, text: str) -> dict[str, Any]:
        if choice.prompt.answer is None:
            return self._words(text, "", ())
        return self._words(parts.content, parts.reasoning, parts.calls)

    def _words(self, content: str, thinking: str, calls: tuple[ToolCall, ...]) -> dict[str, Any]:
        thought = {"thinking": thinking} if thinking else {}
        if not self._is_chat:
            return {"response": content, **thought}
        told = [{"id": call.id, "function": {"name": call.name, "arguments": call.arguments}} for call in calls]
        tool_calls = {"tool_calls": told} if told else {}
        return {"message": {"role": "assistant", "content": content, **thought, **tool_calls}}

    def _around(self, *, done: bool) -> dict[str, Any]:
        return {"model": self._model, "created_at": timestamp(datetime.now(UTC)), "done": done}


def timestamp(when: datetime) -> str:
    """As Ollama writes a time in UTC."""
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _counts(choice: Choice) -> dict[str, Any]:
    """Tokens, and durations in nanoseconds; a model that answers is open already."""
    first = choice.seconds if choice.first_token_seconds is None else choice.first_token_seconds
    return {
        "done_reason": choice.finish_reason,
        "total_duration": duration(choice.seconds),
        "load_duration": 0,
        "prompt_eval_count": len(choice.prompt.ids),
        "prompt_eval_duration": duration(first - choice.queue_seconds),
        "eval_count": choice.n_tokens,
        "eval_duration": duration(choice.seconds - first),
    }


def duration(seconds: float) -> int:
    """In nanoseconds."""
    return max(0, round(seconds * _NANOSECONDS))
