"""`ResponseReply`: a response, whole or as typed events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

from landrace.engine.outputs import StepOutput
from landrace.errors import LandraceError
from landrace.server import wire
from landrace.server.generation import Choice, Generation
from landrace.server.http.errors import shaped
from landrace.server.responses.schema import ResponseRequest
from landrace.text.answers import Content, Event, Reasoning, ToolCall

_COMPLETED, _INCOMPLETE, _IN_PROGRESS, _FAILED = "completed", "incomplete", "in_progress", "failed"


class ResponseReply:
    """One answer, as items of thoughts, messages and calls in the order they come. A `Reply`."""

    media_type = wire.EVENTS

    def __init__(self, model: str, asked: ResponseRequest) -> None:
        self.id = f"resp_{uuid.uuid4().hex}"
        self._model = model
        self._asked = asked
        self._created = int(time.time())
        self._number = 0
        self._items: list[dict[str, Any]] = []
        """Those that are whole."""
        self._open: dict[str, Any] | None = None

    def whole(self, generation: Generation) -> dict[str, Any]:
        (choice,) = generation.choices
        items = [_item(passage) for passage in choice.passages]
        if items and choice.finish_reason == "length":
            items[-1]["status"] = _INCOMPLETE
        return self._response(_status(choice), items, usage=_usage(choice))

    def delta(self, generation: Generation, choice: Choice, output: StepOutput) -> Iterator[str]:
        if self._number == 0:
            for kind in ("response.created", "response.in_progress"):
                yield self._event(kind, response=self._response(_IN_PROGRESS, []))
        for event in output.events:
            if self._open is None or self._open["type"] != _TYPES[type(event)]:
                yield from self._close(_COMPLETED)
                yield from self._begin(event)
            yield from self._go_on(event)
            if isinstance(event, ToolCall):
                yield from self._close(_COMPLETED)

    def closing(self, generation: Generation) -> Iterator[str]:
        (choice,) = generation.choices
        status = _status(choice)
        yield from self._close(status)
        yield self._event(f"response.{status}", response=self._response(status, self._items, usage=_usage(choice)))

    def failure(self, generation: Generation, error: LandraceError) -> Iterator[str]:
        told = shaped(error).body["error"]
        yield from self._close(_INCOMPLETE)
        failed = {"code": told["code"] or "server_error", "message": told["message"]}
        yield self._event("response.failed", response=self._response(_FAILED, self._items, error=failed))

    def _begin(self, event: Event) -> Iterator[str]:
        self._open = {**_item(event), "status": _IN_PROGRESS}
        empty: dict[str, Any] = {"arguments": ""} if isinstance(event, ToolCall) else {"content": []}
        yield self._of_item("response.output_item.added", item={**self._open, **empty})
        if isinstance(event, ToolCall):
            return
        self._open["content"][0]["text"] = ""
        yield self._of_part("response.content_part.added", part=self._open["content"][0])

    def _go_on(self, event: Event) -> Iterator[str]:
        assert self._open is not None
        if isinstance(event, ToolCall):
            what = {"item_id": self._open["id"], "delta": self._open["arguments"]}
            yield self._of_item("response.function_call_arguments.delta", self._asked.obfuscates, **what)
            return
        self._open["content"][0]["text"] += event.text
        kind, more = _TEXT_EVENTS[type(event)]
        yield self._of_part(f"{kind}.delta", self._asked.obfuscates, delta=event.text, **more)

    def _close(self, status: str) -> Iterator[str]:
        if self._open is None:
            return
        item = self._open
        item["status"] = status
        if item["type"] == "function_call":
            yield self._of_item(
                "response.function_call_arguments.done",
                item_id=item["id"],
                name=item["name"],
                arguments=item["arguments"],
            )
        else:
            part = item["content"][0]
            kind, more = _TEXT_EVENTS[Reasoning if item["type"] == "reasoning" else Content]
            yield self._of_part(f"{kind}.done", text=part["text"], **more)
            yield self._of_part("response.content_part.done", part=part)
        yield self._of_item("response.output_item.done", item=item)
        self._items.append(item)
        self._open = None

    def _of_part(self, kind: str, obfuscate: bool = False, **fields: Any) -> str:
        assert self._open is not None
        return self._of_item(kind, obfuscate, item_id=self._open["id"], content_index=0, **fields)

    def _of_item(self, kind: str, obfuscate: bool = False, **fields: Any) -> str:
        return self._event(kind, obfuscate, output_index=len(self._items), **fields)

    def _event(self, kind: str, obfuscate: bool = False, **fields: Any) -> str:
        body = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return wire.server_event(body, kind, obfuscate=obfuscate)

    def _response(
        self,
        status: str,
        items: list[dict[str, Any]],
        *,
        usage: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        asked = self._asked
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if status == _COMPLETED else None,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if status == _INCOMPLETE else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "max_tool_calls": None,
            "metadata": asked.metadata,
            "model": self._model,
            "output": items,
            "parallel_tool_calls": asked.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": {"effort": asked.reasoning.effort, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "text": {"format": asked.text.format or {"type": "text"}, "verbosity": "medium"},
            "tool_choice": asked.tool_choice,
            "tools": asked.tools,
            "top_logprobs": 0,
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "truncation": "disabled",
            "usage": usage,
        }


_TYPES: dict[type[Event], str] = {Content: "message", Reasoning: "reasoning", ToolCall: "function_call"}
_TEXT_EVENTS: dict[type[Event], tuple[str, dict[str, Any]]] = {
    Content: ("response.output_text", {"logprobs": []}),
    Reasoning: ("response.reasoning_text", {}),
}


def _item(passage: Event) -> dict[str, Any]:
    number = uuid.uuid4().hex
    if isinstance(passage, Content):
        part = {"type": "output_text", "text": passage.text, "annotations": [], "logprobs": []}
        item = {"id": f"msg_{number}", "type": "message", "role": "assistant", "content": [part]}
    elif isinstance(passage, Reasoning):
        thought = {"type": "reasoning_text", "text": passage.text}
        item = {"id": f"rs_{number}", "type": "reasoning", "summary": [], "content": [thought]}
    else:
        arguments = json.dumps(passage.arguments, ensure_ascii=False)
        call = {"call_id": passage.id, "name": passage.name, "arguments": arguments}
        item = {"id": f"fc_{number}", "type": "function_call", **call}
    return {**item, "status": _COMPLETED}


def _status(choice: Choice) -> str:
    return _INCOMPLETE if choice.finish_reason == "length" else _COMPLETED


def _usage(choice: Choice) -> dict[str, Any]:
    n_prompt = len(choice.prompt.ids)
    return {
        "input_tokens": n_prompt,
        "input_tokens_details": {"cached_tokens": choice.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": choice.n_tokens,
        "output_tokens_details": {"reasoning_tokens": choice.thought_tokens},
        "total_tokens": n_prompt + choice.n_tokens,
    }
