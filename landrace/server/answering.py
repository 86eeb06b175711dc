"""Answers one call: whole or as a stream of events, freeing the engine as soon as the client is gone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from landrace.engine.outputs import StepOutput
from landrace.engine.sampling_params import SamplingParams
from landrace.errors import LandraceError
from landrace.server.access.caller import Caller, caller_of
from landrace.server.access.tally import tally_of
from landrace.server.chats.chat import renamed
from landrace.server.engines.registry import ServedModel
from landrace.server.generation import Choice, Generation, Prompt
from landrace.server.http.errors import note_error, shaped
from landrace.server.http.presence import CLIENT_CLOSED, ClientGoneError, unless_gone
from landrace.server.http.stream import Stream
from landrace.server.usage import UsageLog


class Reply(Protocol):
    """One call's answer in the words of an API: whole, or as what is streamed, piece by piece."""

    id: str
    """Of the answer; those of the engine's requests and of the usage begin with it."""
    media_type: str
    """Of what is streamed."""

    def whole(self, generation: Generation) -> dict[str, Any]:
        """The body, once everything has come."""
        ...

    def delta(self, generation: Generation, choice: Choice, output: StepOutput) -> Iterable[str]:
        """What an output brought, which `choice` has taken. What a stream begins with goes before the first."""
        ...

    def closing(self, generation: Generation) -> Iterable[str]:
        """The end of a stream."""
        ...

    def failure(self, generation: Generation, error: LandraceError) -> Iterable[str]:
        """The end of a stream that cannot go on."""
        ...


@dataclass(frozen=True)
class Call:
    """A call that passed its checks. `params` belong to `prompts` one by one."""

    model: ServedModel
    prompts: Sequence[Prompt]
    params: Sequence[SamplingParams]
    reply: Reply
    stream: bool
    n: int = 1
    names: Mapping[str, str] = field(default_factory=dict)
    """What the API calls the fields that the engine names otherwise."""
    ended: Callable[[Generation], None] | None = None
    """Told when everything has come that will."""
    kind: str = "chat"
    """What was asked for, as the ledger's usage has it."""
    lowered: int = 0
    """How far below the priority of its key it runs."""
    deadline: float | None = None
    """`time.monotonic()` by which it has to have ended."""


async def answer(call: Call, http: Request, usage_log: UsageLog) -> Response:
    """The reply. Raises RequestError, EngineBusyError and EngineStoppedError as long as nothing was sent."""
    caller = caller_of(http)
    generation = Generation(
        call.model.engine,
        call.reply.id,
        call.prompts,
        call.params,
        call.n,
        call.model.adapter,
        client=caller.key_id or "",
        priority=caller.priority - call.lowered,
        deadline=call.deadline,
    )
    most = call.n * sum(params.max_tokens for params in call.params)
    tally = tally_of(http)
    tally.begin(generation.counts().prompt_tokens, most, generation.counts)
    tally.follow(call.reply.id, call.kind, generation.choices, call.model.engine.tokenizer)
    try:
        if not call.stream:
            await unless_gone(http, _run(call, generation, caller, usage_log))
            return JSONResponse(call.reply.whole(generation))
        pieces = _pieces(call, generation, http, usage_log)
        # What comes first decides whether this is a stream or an error with a status of its own.
        first = await unless_gone(http, anext(pieces))
        return Stream(first, pieces, call.reply.media_type)
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED)


async def _run(call: Call, generation: Generation, caller: Caller, usage_log: UsageLog) -> None:
    try:
        with renamed(call.names), generation:
            async for _ in generation:
                pass
    finally:
        _record(call, generation, caller, usage_log)


async def _pieces(call: Call, generation: Generation, http: Request, usage_log: UsageLog) -> AsyncGenerator[str, None]:
    """What there is to send, as often as something came of the engine: what came of several steps goes together."""
    reply, sent = call.reply, False
    pieces: list[str] = []
    try:
        with renamed(call.names), generation:
            async for choice, output in generation:
                if output.token_ids or output.finish_reason:  # else a long prompt is still being scored
                    pieces += reply.delta(generation, choice, output)
                if pieces and not generation.has_more:
                    yield "".join(pieces)
                    sent = True
                    pieces.clear()
        yield "".join([*pieces, *reply.closing(generation)])
    except LandraceError as error:
        if not sent:
            raise
        note_error(http.scope, shaped(error))
        yield "".join([*pieces, *reply.failure(generation, error)])
    finally:
        _record(call, generation, caller_of(http), usage_log)


def _record(call: Call, generation: Generation, caller: Caller, usage_log: UsageLog) -> None:
    usage_log.add(call.reply.id, call.model.name, call.model.adapter, generation.choices, kind=call.kind, caller=caller)
    if call.ended is not None:
        call.ended(generation)
