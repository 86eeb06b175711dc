"""`MessageReply`: a message of Anthropic's API, whole or as events."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from landrace.engine.outputs import StepOutput
from landrace.errors import LandraceError
from landrace.server import wire
from landrace.server.generation import Choice, Generation
from landrace.server.http import error_shapes
from landrace.server.http.errors import shaped
from landrace.text.answers import Content, Event, Reasoning


class MessageReply:
    """One answer, as blocks of thoughts, text and calls in the order they come. A `Reply`."""

    media_type = wire.EVENTS

    def __init__(self, model: str, *, max_tokens: int, shows_thoughts: bool) -> None:
        """`max_tokens`: as asked for, which may be more than the context had room for."""
        self.id = f"msg_{uuid.uuid4().hex}"
        self._model = model
        self._max_tokens = max_tokens
        self._shows_thoughts = shows_thoughts
        self._index = -1
        self._open: type[Event] | None = None

    def whole(self, generation: Generation) -> dict[str, Any]:
        (choice,) = generation.choices
        blocks = [self._block(passage) for passage in choice.passages]
        return self._message(blocks, self._usage(choice), self._stop_reason(choice), choice.stop)

    def delta(self, generation: Generation, choice: Choice, output: StepOutput) -> Iterator[str]:
        if self._index < 0:
            self._index = 0
            yield _event("message_start", message=self._message([], {**self._usage(choice), "output_tokens": 0}))
            yield _event("ping")
        for event in output.events:
            if self._open is not type(event):
                yield from self._close()
                self._open = type(event)
                yield _event("content_block_start", index=self._index, content_block=_empty(self._block(event)))
            yield from self._deltas(event)
            if not isinstance(event, Content | Reasoning):  # a call is whole
                yield from self._close()

    def closing(self, generation: Generation) -> Iterator[str]:
        (choice,) = generation.choices
        yield from self._close()
        delta = {"stop_reason": self._stop_reason(choice), "stop_sequence": choice.stop}
        yield _event("message_delta", delta=delta, usage=self._usage(choice))
        yield _event("message_stop")

    def failure(self, generation: Generation, error: LandraceError) -> Iterator[str]:
        failed = shaped(error)
        _, body = error_shapes.anthropic(failed.status, failed.body)
        yield wire.server_event(body, "error")

    def _deltas(self, event: Event) -> Iterator[str]:
        if isinstance(event, Content):
            yield self._delta("text_delta", text=event.text)
        elif not isinstance(event, Reasoning):
            yield self._delta("input_json_delta", partial_json=json.dumps(event.arguments, ensure_ascii=False))
        elif self._shows_thoughts:
            yield self._delta("thinking_delta", thinking=event.text)

    def _close(self) -> Iterator[str]:
        if self._open is None:
            return
        if self._open is Reasoning:
            yield self._delta("signature_delta", signature=self.id)
        yield _event("content_block_stop", index=self._index)
        self._open = None
        self._index += 1

    def _delta(self, kind: str, **what: Any) -> str:
        return _event("content_block_delta", index=self._index, delta={"type": kind, **what})

    def _block(self, passage: Event) -> dict[str, Any]:
        """Nobody checks a signature; clients want one to send a thought back."""
        if isinstance(passage, Content):
            return {"type": "text", "text": passage.text, "citations": None}
        if isinstance(passage, Reasoning):
            shown = passage.text if self._shows_thoughts else ""
            return {"type": "thinking", "thinking": shown, "signature": self.id}
        return {"type": "tool_use", "id": passage.id, "name": passage.name, "input": passage.arguments}

    def _message(
        self, blocks: list[dict[str, Any]], usage: dict[str, Any], reason: str | None = None, stop: str | None = None
    ) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": blocks,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": usage,
        }

    def _stop_reason(self, choice: Choice) -> str:
        if choice.finish_reason == "length":
            return "max_tokens" if choice.n_tokens >= self._max_tokens else "model_context_window_exceeded"
        if choice.stop is not None:
            return "stop_sequence"
        return "tool_use" if choice.calls else "end_turn"

    def _usage(self, choice: Choice) -> dict[str, Any]:
        """Tokens that came from the prefix cache count by themselves; to keep them costs nothing."""
        return {
            "input_tokens": len(choice.prompt.ids) - choice.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": choice.cached_tokens,
            "output_tokens": choice.n_tokens,
            "output_tokens_details": {"thinking_tokens": choice.thought_tokens},
        }


def _event(kind: str, **fields: Any) -> str:
    return wire.server_event({"type": kind, **fields}, kind)


def _empty(block: dict[str, Any]) -> dict[str, Any]:
    """A block as its first event shows it; deltas fill it."""
    empty = {"text": "", "thinking": "", "signature": "", "input": {}}
    return {name: empty.get(name, value) if name != "type" else value for name, value in block.items()}
