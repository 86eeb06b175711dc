"""From a `Chat` to token ids and the form of the answer."""

from __future__ import annotations

from typing import Any

from landrace.server.chats.chat import Chat, Thoughts, renamed
from landrace.server.engines.process import EngineProcess
from landrace.server.generation import Prompt
from landrace.text import Tokenizer
from landrace.text import chat_prompt as written_prompt
from landrace.text.answers import AnswerForm, answer_form, call_guide
from landrace.text.chat_template import ChatTemplate
from landrace.text.guides import Guide, check_guide
from landrace.text.thinking_switches import switched, switches, with_effort


def chat_prompt(engine: EngineProcess, chat: Chat) -> Prompt:
    """The conversation's token ids, and how to read its answer. Raises RequestError for one that cannot be written or
    cannot fit, and for a model that only reads."""
    engine.abilities.check_writes(engine.settings.model)
    tokenizer = engine.tokenizer
    tools = [] if chat.choice.none else list(chat.tools)
    with renamed(chat.names):
        variables = {**chat.variables, **_thinking(tokenizer, chat)}
        prompt = written_prompt(tokenizer, chat.messages, tools=tools, limit=engine.prompt_limit, **variables)
        form = answer_form(tokenizer, prompt.text, tools)
        return Prompt(tuple(prompt.token_ids), answer=form, guide=_guide(tokenizer, chat, form))


def _guide(tokenizer: Tokenizer, chat: Chat, form: AnswerForm) -> Guide | None:
    """What the answer is held to: calls, what is asked to be said, or either where the choice is the model's. Arguments
    are held to the schemas of their tools as soon as a call is forced, one tool is strict, calls are counted, or not
    every tool may be called."""
    choice, said = chat.choice, chat.said
    is_strict = any(tool["function"].get("strict") for tool in form.tools)
    guide = said
    if form.tools and (choice.must or choice.names is not None or said or is_strict or not choice.several):
        guide = call_guide(
            tokenizer,
            form,
            choice.names,
            several=choice.several,
            amid_text=not choice.must and said is None,
            or_said=None if choice.must else said,
        )
    if guide is not None:
        check_guide(guide, tokenizer)
    return guide


def _thinking(tokenizer: Tokenizer, chat: Chat) -> dict[str, Any]:
    """What the template is told of how much to think. What a model does anyhow needs no switch."""
    template = tokenizer.chat_template
    if template is None:
        return {}
    found: dict[str, Any] = {}
    if chat.thoughts is not None and _switch_is_needed(tokenizer, template, chat.thoughts):
        found = switched(template, on=chat.thoughts == "on")
    if chat.effort is not None:
        found |= with_effort(template, chat.effort, {**chat.variables, **found})
    return found


def _switch_is_needed(tokenizer: Tokenizer, template: ChatTemplate, thoughts: Thoughts) -> bool:
    thinks = tokenizer.answer_grammar.thought is not None
    return bool(switches(template)) or (thinks if thoughts == "off" else not thinks and thoughts == "on")
