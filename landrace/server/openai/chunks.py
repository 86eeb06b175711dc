"""`ChunkedReply`: the bodies and chunks of the OpenAI API's chats and completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

from landrace.engine.outputs import StepOutput
from landrace.errors import LandraceError
from landrace.server import wire
from landrace.server.engines.registry import ServedModel
from landrace.server.generation import Choice, Generation
from landrace.server.http.errors import shaped
from landrace.server.openai.replies import Shape

_DONE = "data: [DONE]\n\n"


class ChunkedReply:
    """What is around the choices of a `shape`. A `Reply`."""

    media_type = wire.EVENTS

    def __init__(self, model: ServedModel, shape: Shape, *, include_usage: bool, obfuscate: bool) -> None:
        """`include_usage`: a stream ends with the token counts. `obfuscate`: its chunks tell little by their sizes."""
        self.id = f"{shape.prefix}-{uuid.uuid4().hex}"
        self._model = model
        self._shape = shape
        self._include_usage = include_usage
        self._obfuscate = obfuscate
        self._opened: set[int] = set()

    def whole(self, generation: Generation) -> dict[str, Any]:
        choices = [self._shape.choice(choice) for choice in generation.choices]
        return self._envelope(generation, self._shape.kind, choices, usage=generation.usage())

    def delta(self, generation: Generation, choice: Choice, output: StepOutput) -> Iterator[str]:
        if choice.index not in self._opened:
            self._opened.add(choice.index)
            if (opening := self._shape.opening(choice)) is not None:
                yield self._chunk(generation, opening)
        if (chunk := self._shape.delta(choice, output)) is not None:
            yield self._chunk(generation, chunk)

    def closing(self, generation: Generation) -> Iterator[str]:
        if self._include_usage:
            yield wire.server_event(self._envelope(generation, self._shape.chunk_kind, [], usage=generation.usage()))
        yield _DONE

    def failure(self, generation: Generation, error: LandraceError) -> Iterator[str]:
        yield wire.server_event(shaped(error).body)
        yield _DONE

    def _chunk(self, generation: Generation, choice: dict[str, Any]) -> str:
        more: dict[str, Any] = {"usage": None} if self._include_usage else {}
        body = self._envelope(generation, self._shape.chunk_kind, [choice], **more)
        return wire.server_event(body, obfuscate=self._obfuscate)

    def _envelope(
        self, generation: Generation, kind: str, choices: list[dict[str, Any]], **more: Any
    ) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": int(time.time()),
            "model": self._model.name,
            "system_fingerprint": generation.fingerprint,
            "choices": choices,
            **more,
        }
