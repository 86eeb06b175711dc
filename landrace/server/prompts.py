"""From a body to token ids, in threads of its own, so that a long prompt never stops another call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel

from landrace.errors import PromptTooLongError, RequestError
from landrace.server.engine_process import EngineBusyError, EngineProcess
from landrace.server.generation import Prompt, check_count
from landrace.server.json_body import LONG_BODY, parse, read_body
from landrace.server.schema import ChatRequest, CompletionRequest
from landrace.text import encode_chat

MAX_LONG_WAITING = 16
"""Long bodies that may wait for the thread that reads them; they lie in memory meanwhile."""
_SHORT_THREADS = 2

B = TypeVar("B", bound=BaseModel)
P = TypeVar("P")


class PromptDesk:
    """Reads bodies and prepares their prompts.

    Long bodies have one thread, which takes them in the order they came; short ones never wait for it.
    """

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(_SHORT_THREADS, thread_name_prefix="short prompts")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="long prompts")
        self._long_waiting = 0

    async def take(self, http: Request, form: type[B], prepare: Callable[[B], P]) -> tuple[B, P]:
        """The body as `form`, and what `prepare` makes of it.

        Raises EngineBusyError where too many long bodies wait, and what reading, checking and preparing raise.
        """
        data = await read_body(http)
        job = partial(_parsed_and_prepared, data, form, prepare)
        loop = asyncio.get_running_loop()
        if len(data) < LONG_BODY:
            return await loop.run_in_executor(self._short, job)
        if self._long_waiting == MAX_LONG_WAITING:
            raise EngineBusyError(
                "The server has as many long prompts waiting as it accepts.", hint="Try again shortly."
            )
        self._long_waiting += 1
        try:
            return await loop.run_in_executor(self._long, job)
        finally:
            self._long_waiting -= 1

    def close(self) -> None:
        """Ends the threads after what they are doing."""
        for pool in (self._short, self._long):
            pool.shutdown(wait=False, cancel_futures=True)


def _parsed_and_prepared(data: bytes, form: type[B], prepare: Callable[[B], P]) -> tuple[B, P]:
    body = parse(data, form)
    return body, prepare(body)


def chat_prompt(engine: EngineProcess, body: ChatRequest) -> Prompt:
    """The conversation's token ids. Raises RequestError for one that cannot be written or cannot fit."""
    try:
        ids = encode_chat(engine.tokenizer, body.messages, limit=engine.max_length, **body.chat_template_kwargs)
    except RequestError as error:
        error.field = "messages"
        raise
    return Prompt(tuple(ids))


def plain_prompts(engine: EngineProcess, body: CompletionRequest) -> list[Prompt]:
    """The token ids of every prompt. Raises RequestError for one that cannot fit, or for too many."""
    check_count(engine, len(body.prompt) * body.n)
    return [_plain_prompt(engine, prompt) for prompt in body.prompt]


def _plain_prompt(engine: EngineProcess, prompt: str | list[int]) -> Prompt:
    limit = engine.max_length
    if isinstance(prompt, str):
        return Prompt(tuple(engine.tokenizer.encode(prompt, limit=limit)), prompt)
    if len(prompt) > limit:
        raise PromptTooLongError(
            f"The prompt has {len(prompt):,} tokens; at most {limit:,} fit.", field="prompt", hint="Shorten the prompt."
        )
    return Prompt(tuple(prompt))
