"""Answers one call: whole or as a stream of events, freeing the engine as soon as the client is gone."""

from __future__ import annotations

import asyncio
import json
import secrets
import string
import uuid
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from landrace.engine.sampling_params import SamplingParams
from landrace.errors import LandraceError, RequestError
from landrace.server.access.tally import tally_of
from landrace.server.engines.registry import ServedModel
from landrace.server.generation import Generation, Prompt
from landrace.server.http.errors import shaped
from landrace.server.openai.replies import Shape, envelope
from landrace.server.usage import UsageLog

_EVENT_BYTES = 128
"""Events that hide their sizes are a multiple of this long."""
_CLIENT_CLOSED = 499
"""The status nginx gives a call whose client went away; nobody is there to read it."""

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """A call that passed its checks. `params` belong to `prompts` one by one."""

    model: ServedModel
    prompts: Sequence[Prompt]
    params: Sequence[SamplingParams]
    n: int
    shape: Shape
    stream: bool
    include_usage: bool
    obfuscate: bool
    """Whether the events of a stream are filled up to sizes that tell little of their texts."""

    def envelope(self, kind: str, call_id: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A reply or a chunk around its choices."""
        fingerprint = self.model.engine.fingerprint(self.model.adapter)
        return envelope(kind, call_id, self.model.name, fingerprint, choices, **more)


async def answer(call: Call, http: Request, usage_log: UsageLog) -> Response:
    """The reply. Raises RequestError, EngineBusyError and EngineStoppedError as long as nothing was sent."""
    call_id = f"{call.shape.prefix}-{uuid.uuid4().hex}"
    generation = Generation(call.model.engine, call_id, call.prompts, call.params, call.n, call.model.adapter)
    most = call.n * sum(params.max_tokens for params in call.params)
    tally_of(http).begin(generation.counts().prompt_tokens, most, generation.counts)
    try:
        if not call.stream:
            await _unless_gone(http, _run(call, call_id, generation, usage_log))
            choices = [call.shape.choice(choice) for choice in generation.choices]
            return JSONResponse(call.envelope(call.shape.kind, call_id, choices, usage=generation.usage()))
        events = _events(call, call_id, generation, usage_log)
        # What comes first decides whether this is a stream or an error with a status of its own.
        first = await _unless_gone(http, anext(events))
        return _EventStream(first, events)
    except _ClientGoneError:
        return Response(status_code=_CLIENT_CLOSED)
    except RequestError as error:
        if error.field == "prompt":  # the engine's word for what came as messages
            error.field = call.shape.prompt_field
        raise


async def _run(call: Call, call_id: str, generation: Generation, usage_log: UsageLog) -> None:
    try:
        with generation:
            async for _ in generation:
                pass
    finally:
        usage_log.add(call_id, call.model.name, call.model.adapter, generation.choices)


async def _events(call: Call, call_id: str, generation: Generation, usage_log: UsageLog) -> AsyncGenerator[str, None]:
    more: dict[str, Any] = {"usage": None} if call.include_usage else {}
    sent = False
    try:
        with generation:
            async for chunk in _chunks(call.shape, generation):
                yield _event(call.envelope(call.shape.chunk_kind, call_id, [chunk], **more), call.obfuscate)
                sent = True
        if call.include_usage:
            yield _event(call.envelope(call.shape.chunk_kind, call_id, [], usage=generation.usage()))
    except LandraceError as error:
        if not sent:
            raise
        yield _event(shaped(error).body)
    finally:
        usage_log.add(call_id, call.model.name, call.model.adapter, generation.choices)
    yield "data: [DONE]\n\n"


async def _chunks(shape: Shape, generation: Generation) -> AsyncGenerator[dict[str, Any], None]:
    opened: set[int] = set()
    async for choice, output in generation:
        if not (output.token_ids or output.finish_reason):  # a long prompt is still being scored
            continue
        if choice.index not in opened:
            opened.add(choice.index)
            opening = shape.opening(choice)
            if opening is not None:
                yield opening
        chunk = shape.delta(choice, output)
        if chunk is not None:
            yield chunk


def _event(body: dict[str, Any], obfuscate: bool = False) -> str:
    if obfuscate:
        size = len(json.dumps({**body, "obfuscation": ""}, ensure_ascii=False).encode())
        body["obfuscation"] = "".join(secrets.choice(string.ascii_letters) for _ in range(-size % _EVENT_BYTES))
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


class _EventStream(StreamingResponse):
    """Server-sent events. However the response ends, the generator behind it ends with it, not when it is collected."""

    def __init__(self, first: str, rest: AsyncGenerator[str, None]) -> None:
        super().__init__(self._all(first, rest), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._rest = rest

    @staticmethod
    async def _all(first: str, rest: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        yield first
        async for event in rest:
            yield event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._rest.aclose()


class _ClientGoneError(Exception):
    """Nobody is there to read the reply."""


async def _unless_gone(http: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away first."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise _ClientGoneError
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _gone(http: Request) -> None:
    """Returns when the client has closed the connection; the body was read before."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
