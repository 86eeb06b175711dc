"""From a body of the OpenAI API to token ids and the form of the answer."""

from __future__ import annotations

from typing import Any

from landrace.errors import PromptTooLongError, RequestError
from landrace.server.engines.process import EngineProcess
from landrace.server.generation import Prompt, check_count
from landrace.server.openai.schema import ChatRequest, CompletionRequest
from landrace.server.openai.structured import blamed_on, field_of_guide
from landrace.text import chat_prompt as written_prompt
from landrace.text.answers import AnswerForm, answer_form, call_guide
from landrace.text.guides import Guide, check_guide
from landrace.text.thinking_switches import switched, with_effort


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
