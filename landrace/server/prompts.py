"""From a body to token ids, in threads of its own, so that a long prompt never stops another call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel

from landrace.errors import CheckpointError, PromptTooLongError, RequestError
from landrace.server.body import parse_request, read_body
from landrace.server.engine_process import EngineBusyError, EngineProcess
from landrace.server.generation import Prompt, check_count
from landrace.server.json_body import LONG_BODY
from landrace.server.schema import ChatRequest, CompletionRequest
from landrace.server.structured import blamed_on, field_of_guide
from landrace.text import chat_prompt as written_prompt
from landrace.text.answers import AnswerForm, answer_form, call_guide
from landrace.text.guides import Guide, check_guide
from landrace.text.thinking_switches import switched, with_effort

MAX_LONG_WAITING = 16
"""Long bodies that may wait for the thread that reads them; they lie in memory meanwhile."""
_SHORT_THREADS = 2

B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")


class PromptDesk:
    """Reads bodies and prepares the prompts of `engines`, whose templates and tokenizers may take their time: each has
    threads of its own, and what one of them waits for keeps nobody else."""

    def __init__(self, engines: Sequence[EngineProcess]) -> None:
        self._reading = _Threads("bodies")
        self._preparing = {id(engine): _Threads("prompts") for engine in engines}

    async def read(self, http: Request, form: type[B]) -> B:
        """The body as `form`. Raises EngineBusyError where too many long bodies wait, and what checking raises."""
        data = await read_body(http)
        return await self._reading.run(_is_long(data), partial(parse_request, data, form))

    async def prepare(self, engine: EngineProcess, http: Request, job: Callable[[], T]) -> T:
        """What `job` returns or raises, in a thread of `engine`; EngineBusyError as in `read`, EngineStoppedError."""
        return await self._preparing[id(engine)].run(_is_long(await http.body()), partial(_while_alive, engine, job))

    def close(self) -> None:
        """Ends the threads after what they are doing."""
        for threads in (self._reading, *self._preparing.values()):
            threads.close()


class _Threads:
    """Long jobs have one thread, which takes them in the order they came; short ones never wait for it."""

    def __init__(self, name: str) -> None:
        self._short = ThreadPoolExecutor(_SHORT_THREADS, thread_name_prefix=f"short {name}")
        self._long = ThreadPoolExecutor(1, thread_name_prefix=f"long {name}")
        self._long_waiting = 0

    async def run(self, long: bool, job: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        if not long:
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
        for pool in (self._short, self._long):
            pool.shutdown(wait=False, cancel_futures=True)


def _while_alive(engine: EngineProcess, job: Callable[[], T]) -> T:
    engine.check_alive()
    try:
        return job()
    except CheckpointError:
        engine.check_alive()  # then the template was stopped with it, and is not to blame
        raise


def _is_long(body: bytes) -> bool:
    return len(body) >= LONG_BODY


def chat_prompt(engine: EngineProcess, body: ChatRequest) -> Prompt:
    """The conversation's token ids, and how to read its answer. Raises RequestError for one that cannot be written or
    cannot fit."""
    tools = body.usable_tools
    try:
        variables = {**body.chat_template_kwargs, **_thinking(engine, body)}
        prompt = written_prompt(engine.tokenizer, body.messages, tools=tools, limit=engine.prompt_limit, **variables)
    except RequestError as error:
        if error.field == "prompt":  # the tokenizer's word for what came as messages
            error.field = body.prompt_field
        elif error.field == "enable_thinking":  # it came as an effort of none
            error.field = "reasoning_effort"
        raise
    form = answer_form(engine.tokenizer, prompt.text, tools)
    return Prompt(tuple(prompt.token_ids), answer=form, guide=_chat_guide(engine, body, form))


def _chat_guide(engine: EngineProcess, body: ChatRequest, form: AnswerForm) -> Guide | None:
    """What the answer is held to: calls, what is asked to be said, or either where the choice is the model's. Arguments
    are held to the schemas of their tools as soon as a call is forced, one tool is strict, or calls are counted."""
    choice, said = body.choice, body.said_guide
    several = body.parallel_tool_calls and choice.named is None
    is_strict = any(tool["function"].get("strict") for tool in form.tools)
    guide = said
    with blamed_on(field_of_guide(body.response_format)):
        if form.tools and (choice.must or said or is_strict or not several):
            guide = call_guide(
                engine.tokenizer,
                form,
                None if choice.named is None else (choice.named,),
                several=several,
                amid_text=not choice.must and said is None,
                or_said=None if choice.must else said,
            )
        if guide is not None:
            check_guide(guide, engine.tokenizer)
    return guide


def _thinking(engine: EngineProcess, body: ChatRequest) -> dict[str, Any]:
    """What the template is told of how much to think."""
    template = engine.tokenizer.chat_template
    if body.reasoning_effort is None or template is None:
        return {}
    if body.reasoning_effort == "none":
        return switched(template, on=False)
    return with_effort(template, body.reasoning_effort, body.chat_template_kwargs)


def plain_prompts(engine: EngineProcess, body: CompletionRequest) -> list[Prompt]:
    """The token ids of every prompt. Raises RequestError for one that cannot fit, or for too many."""
    check_count(engine, len(body.prompt) * body.n)
    if (guide := body.said_guide) is not None:
        with blamed_on(field_of_guide(body.response_format)):
            check_guide(guide, engine.tokenizer)
    return [_plain_prompt(engine, prompt, guide) for prompt in body.prompt]


def _plain_prompt(engine: EngineProcess, prompt: str | list[int], guide: Guide | None) -> Prompt:
    limit = engine.prompt_limit
    if isinstance(prompt, str):
        return Prompt(tuple(engine.tokenizer.encode(prompt, limit=limit)), prompt, guide=guide)
    if limit is not None and len(prompt) > limit:
        raise PromptTooLongError(
            f"The maximum context length is {limit} tokens; the prompt has {len(prompt)}.",
            field="prompt",
            hint="Shorten the prompt.",
        )
    return Prompt(tuple(prompt), guide=guide)
