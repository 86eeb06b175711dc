"""`run`: chat in the terminal, or one answer for a prompt on the command line."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from landrace.cli.console import err, fail, notice, print_json
from landrace.cli.endings import Ended
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
from landrace.cli.printing import AnswerPrinter
from landrace.cli.progress import spinner
from landrace.errors import RequestError

if TYPE_CHECKING:
    from landrace.engine import Completion, SamplingParams
    from landrace.model import ServingModel
    from landrace.text import Tokenizer
    from landrace.text.guides import Guide


def run(
    model: Annotated[str, typer.Argument(help="A stored model, a folder or a .gguf file.")],
    prompt: Annotated[str | None, typer.Argument(help="One prompt; - reads it from stdin; none starts a chat.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="A LoRA adapter folder in peft's format.")] = None,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Most tokens in an answer.")] = 512,
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
    from landrace.engine import SamplingParams
    from landrace.text.guides import check_guide

    params = SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=tuple(stop or ()),
        thinking_budget=_budget(think),
    )
    if json and prompt is None:
        raise RequestError("--json needs a prompt on the command line.")
    if raw and system is not None:
        raise RequestError("--raw writes no template that a --system message could be put into.", hint="Leave one out.")
    if raw and (think is not None or effort is not None):
        raise RequestError("--raw writes no template that --think or --effort could be put into.")
    if prompt == "-":
        prompt = sys.stdin.read()
    for what, text in (("prompt", prompt), ("system message", system), *(("stop text", text) for text in stop or ())):
        _check_text(what, text or "")
    guide = read_guide(schema, regex, choice)
    from landrace.model import open_engine

    started = time.perf_counter()
    with spinner(f"opening {model}"):
        adapters = {"adapter": adapter} if adapter else {}
        serving = open_engine(
            model,
            adapters=adapters,
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
    variables = _thinking(serving.model.tokenizer, think, effort)
    if guide is not None:
        check_guide(guide, serving.model.tokenizer)
    talk = Conversation(serving, params, "adapter" if adapter else None, system, variables, guide, raw=raw)
    if prompt is None:
        _chat(talk)
        return
    if json:
        completion = talk.ask(prompt)
        thoughts = (
            {} if raw else {"reasoning": completion.parts.reasoning, "reasoning_tokens": completion.thought_tokens}
        )
        print_json(
            {
                "text": talk.said(completion),
                **thoughts,
                "finish_reason": completion.finish_reason,
                "seed": completion.seed,
                "prompt_tokens": completion.prompt_tokens,
                "completion_tokens": len(completion.token_ids),
                "drafted_tokens": completion.drafted_tokens,
                "accepted_tokens": completion.accepted_tokens,
                "dropped_tokens": completion.dropped_tokens,
                "seconds": time.perf_counter() - started,
            }
        )
        return
    completion = _asked(talk, prompt)
    sys.stdout.write("\n")
    _tell_dropped(completion)
    _tell_cut(completion, guide)


class Conversation:
    """Messages so far, and the engine that continues them."""

    def __init__(
        self,
        serving: ServingModel,
        params: SamplingParams,
        adapter: str | None,
        system: str | None,
        variables: Mapping[str, Any],
        guide: Guide | None = None,
        *,
        raw: bool,
    ) -> None:
        """`variables`: of the model's template. `guide`: what every answer is held to."""
        self._serving = serving
        self._params = params
        self._adapter = adapter
        self.raw = raw
        self._variables = dict(variables)
        self._guide = guide
        self._system: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        self.messages = list(self._system)

    def clear(self) -> None:
        self.messages = list(self._system)

    def ask(self, text: str, on_output: Any = None) -> Completion:
        """Adds the user's message and the model's answer. A failed answer leaves the conversation as it was."""
        from landrace.engine import Request
        from landrace.text import chat_prompt
        from landrace.text.answers import answer_form

        tokenizer = self._serving.model.tokenizer
        asked = [*self.messages, {"role": "user", "content": text}]
        if self.raw:
            request = Request("run", tuple(tokenizer.encode(text)), self._params, self._adapter, guide=self._guide)
        else:
            prompt = chat_prompt(tokenizer, asked, **self._variables)
            form = answer_form(tokenizer, prompt.text)
            request = Request("run", tuple(prompt.token_ids), self._params, self._adapter, form, self._guide)
        (completion,) = self._serving.engine.generate([request], on_output)
        if completion.error is not None:
            raise completion.error
        # Whether the model sees its thoughts again is the template's to say.
        thoughts = {"reasoning_content": completion.parts.reasoning} if completion.parts.reasoning else {}
        self.messages = [*asked, {"role": "assistant", "content": self.said(completion), **thoughts}]
        return completion

    def said(self, completion: Completion) -> str:
        """What the model says, without its thoughts."""
        return completion.text if self.raw else completion.parts.content


def _budget(think: str | None) -> int | None:
    """The number in --think, if it is one."""
    if think in (None, "on", "off"):
        return None
    if not think.isdecimal():
        raise RequestError(f"--think is {think[:40]!r}; it is on, off or a number of tokens.")
    return int(think)


def _thinking(tokenizer: Tokenizer, think: str | None, effort: str | None) -> dict[str, Any]:
    """What the model's template is told of thoughts. RequestError where it has no way to say so."""
    from landrace.text.thinking_switches import switched, with_effort

    template = tokenizer.chat_template
    if template is None:
        return {}
    switch = switched(template, think == "on") if think in ("on", "off") else {}
    return {**switch, **(with_effort(template, effort, switch) if effort is not None else {})}


def _asked(talk: Conversation, text: str) -> Completion:
    """The answer, printed as it comes."""
    printer = AnswerPrinter(raw=talk.raw)
    try:
        return talk.ask(text, printer)
    finally:
        printer.end()


def _check_text(what: str, text: str) -> None:
    """RequestError for bytes that were no text in the encoding they came in; Python keeps them as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"The {what} is not valid text in this terminal's encoding: character {error.start + 1} cannot be read.",
            field="prompt",
            hint="Convert it to UTF-8, or set PYTHONIOENCODING to the encoding it has.",
        ) from None


def _tell_dropped(completion: Completion) -> None:
    if completion.dropped_tokens:
        err.print(f"The model went on without {completion.dropped_tokens} tokens from the beginning.", style="dim")


def _tell_cut(completion: Completion, guide: Guide | None) -> None:
    if guide is not None and completion.finish_reason == "length":
        err.print("The answer was cut before it was whole: it reached --max-tokens.", style="dim")


def _chat(talk: Conversation) -> None:
    """Reads lines until end of input. A line that fails says why and the chat goes on."""
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  line editing and history for input()
    err.print("Type a message. /clear forgets the conversation, /exit or Ctrl-D ends it.", style="dim")
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            if sys.stdout.isatty():
                sys.stdout.write("\n")  # the shell's prompt begins a line of its own
            return
        if line == "/exit":
            return
        if line == "/clear":
            talk.clear()
            continue
        if not line:
            continue
        try:
            _check_text("message", line)
            completion = _asked(talk, line)
        except RequestError as error:
            fail(error)
            continue
        except Ended:
            raise
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            err.print("Stopped; the message was not kept.", style="dim")
            continue
        sys.stdout.write("\n")
        _tell_dropped(completion)
        if completion.finish_reason == "length":
            err.print("The answer reached --max-tokens.", style="dim")
