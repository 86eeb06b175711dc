"""`run`: chat in the terminal, or one answer for a prompt on the command line."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from landrace.cli.chat.conversation import Conversation, Turn, as_message
from landrace.cli.chat.files import read_tools
from landrace.cli.chat.thinking import budget
from landrace.cli.console import notice, print_json
from landrace.cli.guided import ChoiceOption, RegexOption, SchemaOption, read_guide
from landrace.cli.options import (
    CacheDtypeOption,
    ContextKeepOption,
    ContextOverflowOption,
    DraftOption,
    KernelsOption,
    MaxLengthOption,
    ThreadsOption,
    WeightsOption,
    opened_for,
)
from landrace.cli.progress import spinner
from landrace.cli.pulling import offer_pull
from landrace.errors import RequestError

ANSWER_TOKENS = 512
"""Most tokens of one answer, unless another number is asked for."""


def run(
    model: Annotated[str, typer.Argument(help="A stored model, a folder or a .gguf file.")],
    prompt: Annotated[str | None, typer.Argument(help="One prompt; - reads it from stdin; none starts a chat.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="A LoRA adapter folder in peft's format.")] = None,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Most tokens in an answer; default: 512, in a chat what there is room for."),
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.7,
    top_k: Annotated[int, typer.Option(help="Keep this many likeliest tokens; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens that make up this probability.")] = 0.95,
    min_p: Annotated[float, typer.Option(help="Drop tokens less likely than this share of the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 discourages repetition.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Makes a sampled answer repeatable.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    think: Annotated[
        str | None, typer.Option(help="on, off, or the most tokens of thoughts, for a model that thinks.")
    ] = None,
    effort: Annotated[
        str | None, typer.Option(help="How much to reason, in the words of the model's template.")
    ] = None,
    tools: Annotated[
        Path | None, typer.Option(help="A JSON file of functions that the model may call, as the OpenAI API has them.")
    ] = None,
    schema: SchemaOption = None,
    regex: RegexOption = None,
    choice: ChoiceOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as plain text, without a template.")] = False,
    weights: WeightsOption = "stored",
    kernels: KernelsOption = "auto",
    threads: ThreadsOption = None,
    cache_dtype: CacheDtypeOption = "auto",
    max_length: MaxLengthOption = None,
    context_overflow: ContextOverflowOption = "error",
    context_keep: ContextKeepOption = 4,
    draft: DraftOption = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of streaming; needs a prompt.")
    ] = False,
) -> None:
    """Talk to a model in the terminal."""
    from landrace.cli.chat.session import chat, check_text, tell_cut, tell_dropped
    from landrace.cli.chat.showing import answer_printer
    from landrace.engine import SamplingParams

    params = SamplingParams(
        max_tokens=ANSWER_TOKENS if max_tokens is None else max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=tuple(stop or ()),
    )
    if json and prompt is None:
        raise RequestError("--json needs a prompt on the command line.")
    beside_raw = {"--system": system, "--think": think, "--effort": effort, "--tools": tools}
    if raw and (given := [name for name, value in beside_raw.items() if value is not None]):
        raise RequestError(f"--raw writes no template that {given[0]} could be put into.", hint="Leave one out.")
    if think is not None:
        budget(think)  # said before a model is opened
    declared = read_tools(tools) if tools is not None else []
    if prompt == "-":
        prompt = sys.stdin.read()
    for what, text in (("prompt", prompt), ("system message", system), *(("stop text", text) for text in stop or ())):
        check_text(what, text or "")
    guide = read_guide(schema, regex, choice)
    from landrace.model import open_engine

    offer_pull(model)
    started = time.perf_counter()
    with spinner(f"opening {model}"):
        serving = open_engine(
            model,
            adapters={"adapter": adapter} if adapter else {},
            weights=weights,
            kernels=kernels,
            threads=threads,
            options=opened_for(
                max_length,
                cache_dtype=cache_dtype,
                context_overflow=context_overflow,
                context_keep=context_keep,
                draft=draft,
            ),
        )
    notice(serving.notice)
    talk = Conversation(serving, params, adapter="adapter" if adapter else None, system=system, raw=raw)
    talk.use_guide(guide)
    if declared:
        talk.use_tools(declared)
    if think is not None:
        talk.think(think)
    if effort is not None:
        talk.use_effort(effort)
    if prompt is None:
        if max_tokens is None:
            talk.params = replace(talk.params, max_tokens=talk.context)
        chat(talk)
    elif json:
        turn = talk.ask(prompt)
        print_json(_json(talk, turn, time.perf_counter() - started))
    else:
        printer = answer_printer(raw=raw)
        try:
            turn = talk.ask(prompt, printer)
        finally:
            printer.end()
        tell_dropped(turn)
        if guide is not None:
            tell_cut(talk, turn)


def _json(talk: Conversation, turn: Turn, seconds: float) -> dict[str, Any]:
    """What --json prints of an answer."""
    completion = turn.completion
    parts = completion.parts
    thoughts = {"reasoning": parts.reasoning, "reasoning_tokens": completion.thought_tokens}
    calls = {"tool_calls": [as_message(call) for call in parts.calls]}
    return {
        "text": talk.said(completion),
        **({} if talk.raw else thoughts),
        **(calls if talk.tools else {}),
        "finish_reason": completion.finish_reason,
        "seed": completion.seed,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": len(completion.token_ids),
        "drafted_tokens": completion.drafted_tokens,
        "accepted_tokens": completion.accepted_tokens,
        "dropped_tokens": completion.dropped_tokens,
        "seconds": seconds,
    }
