"""`ChunkedReply`: the bodies and chunks of the OpenAI API's chats and completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
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

    def __init__(
        self,
        model: ServedModel,
        shape: Shape,
        *,
        include_usage: bool,
        obfuscate: bool,
        include_timings: bool = False,
        price_per_hour: float = 0.0,
    ) -> None:
        """`include_usage`: a stream ends with the token counts. `obfuscate`: its chunks tell little by their sizes.
        `include_timings`: the reply, or the end of a stream, says how long it took, and what that costs."""
        self.id = f"{shape.prefix}-{uuid.uuid4().hex}"
        self._model = model
        self._shape = shape
        self._include_usage = include_usage
        self._obfuscate = obfuscate
        self._include_timings = include_timings
        self._price_per_hour = price_per_hour
        self._created = int(time.time())
        self._around: wire.Envelope | None = None
        """The events of a stream; the model's fingerprint is known when the first of them comes."""
        self._opened: set[int] = set()

    def whole(self, generation: Generation) -> dict[str, Any]:
        choices = [self._shape.choice(choice) for choice in generation.choices]
        told = {"usage": generation.usage(), **self._timings(generation)}
        return self._envelope(generation, self._shape.kind, choices, **told)

    def delta(self, generation: Generation, choice: Choice, output: StepOutput) -> Iterator[str]:
        if choice.index not in self._opened:
            self._opened.add(choice.index)
            if (opening := self._shape.opening(choice)) is not None:
                yield self._chunk(generation, opening)
        if (chunk := self._shape.delta(choice, output)) is not None:
            yield self._chunk(generation, chunk)

    def closing(self, generation: Generation) -> Iterator[str]:
        usage = {"usage": generation.usage()} if self._include_usage else {}
        told = {**usage, **self._timings(generation)}
        if told:
            yield wire.server_event(self._envelope(generation, self._shape.chunk_kind, [], **told))
        yield _DONE

    def failure(self, generation: Generation, error: LandraceError) -> Iterator[str]:
        yield wire.server_event(shaped(error).body)
        yield _DONE

    def _chunk(self, generation: Generation, choice: dict[str, Any]) -> str:
        kind = self._shape.chunk_kind
        if self._obfuscate:
            return wire.server_event(self._envelope(generation, kind, [choice], **self._no_usage), obfuscate=True)
        if self._around is None:
            self._around = wire.Envelope(self._envelope(generation, kind, [None], **self._no_usage))
        return self._around.event(choice)

    @property
    def _no_usage(self) -> dict[str, None]:
        """Of the chunks before the one that tells it."""
        return {"usage": None} if self._include_usage else {}

    def _timings(self, generation: Generation) -> dict[str, Any]:
        return {"timings": generation.timings(self._price_per_hour)} if self._include_timings else {}

    def _envelope(
        self, generation: Generation, kind: str, choices: Sequence[dict[str, Any] | None], **more: Any
    ) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self._model.name,
            "system_fingerprint": generation.fingerprint,
            "choices": choices,
            **more,
        }
