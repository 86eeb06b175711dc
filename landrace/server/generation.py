"""One API call as a set of engine requests (a prompt times n choices), awaited or streamed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace

from landrace.engine.outputs import StepOutput, TokenLogprob
from landrace.engine.request import Request
from landrace.engine.sampling_params import SamplingParams
from landrace.errors import RequestError
from landrace.server.engine_process import EngineProcess
from landrace.server.errors import ApiError, from_landrace


@dataclass
class Choice:
    """What one engine request has produced so far."""

    index: int
    prompt_ids: tuple[int, ...]
    text: str = ""
    n_tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    cached_tokens: int = 0
    finish_reason: str | None = None
    first_token_seconds: float | None = None
    seconds: float = 0.0

    def take(self, output: StepOutput, elapsed: float) -> None:
        self.text += output.text
        self.n_tokens += len(output.token_ids)
        self.logprobs += output.logprobs
        self.prompt_logprobs += output.prompt_logprobs
        self.cached_tokens = output.cached_prompt_tokens
        self.finish_reason = output.finish_reason
        self.seconds = elapsed
        if self.first_token_seconds is None and output.token_ids:
            self.first_token_seconds = elapsed


class Generation:
    """Runs every choice of one API call at once on one engine."""

    def __init__(
        self,
        engine: EngineProcess,
        call_id: str,
        prompts: list[tuple[int, ...]],
        params: SamplingParams,
        n: int,
        adapter: str | None,
    ) -> None:
        self._engine = engine
        self._started = time.perf_counter()
        self.choices: list[Choice] = []
        self._requests: list[Request] = []
        for prompt in prompts:
            for _ in range(n):
                index = len(self.choices)
                own = params
                if params.seed is not None and n > 1:
                    own = replace(params, seed=params.seed + index % n)
                self.choices.append(Choice(index, prompt))
                self._requests.append(Request(f"{call_id}-{index}", prompt, own, adapter))
        if engine.pending + len(self._requests) > engine.max_pending:
            raise ApiError(429, "The server has as many requests waiting as it accepts; try again shortly.")

    def usage(self, prompts: int) -> dict[str, object]:
        """Token counts in the API's form; a prompt counts once, however many choices it has."""
        firsts = self.choices[:: len(self.choices) // prompts]
        prompt_tokens = sum(len(choice.prompt_ids) for choice in firsts)
        completion_tokens = sum(choice.n_tokens for choice in self.choices)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(choice.cached_tokens for choice in firsts)},
        }

    async def events(self) -> AsyncIterator[tuple[Choice, StepOutput]]:
        """Outputs of all choices as they come. Leaving early, or any failure, frees every choice."""
        queue: asyncio.Queue[tuple[Choice, StepOutput] | BaseException] = asyncio.Queue()

        async def follow(choice: Choice, request: Request) -> None:
            try:
                async for output in self._engine.stream(request):
                    choice.take(output, time.perf_counter() - self._started)
                    queue.put_nowait((choice, output))
            except OSError as error:  # the pipe to the engine broke
                queue.put_nowait(error)

        tasks = [asyncio.create_task(follow(c, r)) for c, r in zip(self.choices, self._requests, strict=True)]
        unfinished = len(tasks)
        try:
            while unfinished:
                event = await queue.get()
                if isinstance(event, BaseException):
                    raise ApiError(503, "The engine process stopped.") from event
                if event[1].error is not None:
                    raise self._failure(event[1].error)
                unfinished -= event[1].finish_reason is not None
                yield event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _failure(self, error: RequestError) -> ApiError:
        return from_landrace(error) if self._engine.alive else ApiError(503, error.message)

    async def run(self, disconnected: Callable[[], Awaitable[bool]]) -> bool:
        """Waits for every choice. Returns False, having freed them, when the client went away first."""
        events = self.events()

        async def drain() -> None:
            async for _ in events:
                pass

        work = asyncio.create_task(drain())
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=0.25)
                if not work.done() and await disconnected():
                    return False
            work.result()
            return True
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await events.aclose()  # type: ignore[attr-defined]
