"""A model's chat template: messages to the text the model was trained on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from landrace.errors import CheckpointError, RequestError
from landrace.text.fitting import Fitting
from landrace.text.messages import plain_json, plain_messages, plain_tools
from landrace.text.outline import Mark, first_unwritten, left_out, outline, shape
from landrace.text.template_process import TemplateProcess

MAX_SOURCE = 1_000_000
_MAX_OUTLINES = 256
"""Shapes of conversations whose outline is remembered."""
_MAX_REMEMBERED = 200
"""Messages of a conversation beyond which its shape is not met again, and not worth its memory."""


@dataclass(frozen=True)
class TemplateInput:
    """A conversation in the form that one template reads, ready to be written."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    add_generation_prompt: bool
    variables: Mapping[str, Any]


@dataclass(frozen=True)
class Written:
    """What a template wrote. `outline`: what it writes itself around the texts of conversations of this shape; None
    where it refuses messages with other texts."""

    text: str
    outline: str | None


@dataclass(frozen=True)
class _Sketch:
    """How a template writes conversations of one shape: its text around marks, and the first mark it leaves out."""

    text: str
    missing: Mark | None


class ChatTemplate:
    """Jinja source that turns messages into text, rendered in a process that can be stopped.

    `source` is one template, or several by name: "default", and "tool_use" for conversations with tools. Templates see
    `messages`, `tools`, `add_generation_prompt`, the special tokens by name (`tokens`: bos_token, eos_token ...) and
    whatever else `render` is given (`enable_thinking=False`, `documents=...`), as in `transformers`. `now` answers the
    templates that write today's date. `built_in`: the name of a template that is ours, not the checkpoint's.
    """

    def __init__(
        self,
        source: str | Mapping[str, str],
        *,
        tokens: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
        built_in: str | None = None,
    ) -> None:
        self.sources = {"default": source} if isinstance(source, str) else dict(source)
        if any(len(text) > MAX_SOURCE for text in self.sources.values()):
            raise CheckpointError(f"The chat template is longer than {MAX_SOURCE:,} characters.")
        self.built_in = built_in
        self._tokens = dict(tokens or {})
        self._now = now
        self._process = TemplateProcess(self.sources)
        self._fitting = Fitting(self._try)
        self._sketches: dict[Hashable, _Sketch | None] = {}

    @property
    def source(self) -> str:
        """The template for conversations without tools."""
        return self.sources[self._name(tools=None)]

    @cached_property
    def sha256(self) -> str:
        """Hash of the source; of the sorted JSON of all sources where there are several."""
        single = len(self.sources) == 1
        text = self.source if single else json.dumps(self.sources, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()

    def render(
        self,
        messages: Sequence[Any],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The conversation as text. Raises what `fit` and `write` raise."""
        fitted = self.fit(messages, tools=tools, add_generation_prompt=add_generation_prompt, **variables)
        return self.write(fitted).text

    def fit(
        self,
        messages: Sequence[Any],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> TemplateInput:
        """The conversation in the form that this template reads.

        Raises RequestError for malformed messages, tools or variables, with the field's name.
        """
        plain, declared = plain_messages(messages), plain_tools(tools)
        values = plain_json(variables, "the template's variables", "chat_template_kwargs")
        return TemplateInput(self._fitting.fit(plain, declared), declared, add_generation_prompt, values)

    def write(self, fitted: TemplateInput) -> Written:
        """A conversation from `fit` as the template writes it.

        Raises RequestError for messages that the template refuses or leaves out, and CheckpointError for a template
        that is broken or breaks its bounds.
        """
        text = self._run(fitted.messages, fitted.tools, fitted.add_generation_prompt, fitted.variables)
        sketch = self._sketch(fitted)
        if sketch is not None:
            missing = sketch.missing
        else:
            missing = first_unwritten(outline(fitted.messages, fitted.tools).marks, text)
        if missing is not None:
            raise RequestError(
                f"The chat template leaves out {missing.name}.",
                field=missing.field,
                hint="The model's template does not write it, so the model would never see it; leave it out, "
                "or give it in a form and a place that the template writes.",
            )
        return Written(text, None if sketch is None else sketch.text)

    @cached_property
    def around_turns(self) -> tuple[str, str]:
        """What stands before a question or between an answer and the next question, and what follows a question.

        Empty for a template that does not write such a conversation.
        """
        said = ["Landrace-7f3a", "Landrace-9b1c", "Landrace-2d5e"]
        roles = ("user", "assistant", "user")
        text = self._try([{"role": role, "content": text} for role, text in zip(roles, said, strict=True)], None) or ""
        pieces = re.fullmatch("(.*)".join(["", *said, ""]), text, re.DOTALL)
        return (pieces[1] + pieces[3], pieces[2]) if pieces else ("", "")

    def _sketch(self, fitted: TemplateInput) -> _Sketch | None:
        if len(fitted.messages) > _MAX_REMEMBERED:
            return self._draw(fitted)
        key = (shape(fitted.messages, fitted.tools), fitted.add_generation_prompt, json.dumps(fitted.variables))
        with suppress(KeyError):
            return self._sketches[key]
        sketch = self._draw(fitted)
        if len(self._sketches) >= _MAX_OUTLINES:
            # All at once: threads share this, and clearing cannot fail half-way.
            self._sketches.clear()
        self._sketches[key] = sketch
        return sketch

    def _draw(self, fitted: TemplateInput) -> _Sketch | None:
        sought = outline(fitted.messages, fitted.tools)
        text = self._try(sought.messages, sought.tools, fitted)
        if text is None:
            return None
        missing = left_out(sought.marks, text)
        beside = next((mark for mark in missing if mark.beside_call is not None), None)
        if beside is not None and beside.beside_call is not None:
            newest = self._try(sought.messages[: beside.beside_call + 1], sought.tools, fitted)
            if newest is not None and not left_out([beside], newest):  # and so for all of them
                missing = [mark for mark in missing if mark.beside_call is None]
        return _Sketch(text, next(iter(missing), None))

    def _try(
        self, messages: list[dict[str, Any]], tools: list[Any] | None, like: TemplateInput | None = None
    ) -> str | None:
        """What the template writes; None where it does not accept the messages."""
        try:
            if like is None:
                return self._run(messages, tools, True, {})
            return self._run(messages, tools, like.add_generation_prompt, like.variables)
        except RequestError:
            return None

    def _run(
        self, messages: list[Any], tools: list[Any] | None, add_generation_prompt: bool, variables: Mapping[str, Any]
    ) -> str:
        context = {
            **self._tokens,
            "documents": None,
            **variables,
            "messages": messages,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        return self._process.render(self._name(tools), context, self._now())

    def close(self) -> None:
        """Ends the process that writes, whatever it is doing; the next `render` starts another."""
        self._process.close()

    def finish(self) -> None:
        """Ends that process as soon as it is at nothing."""
        self._process.finish()

    def _name(self, tools: Sequence[Any] | None) -> str:
        if tools and "tool_use" in self.sources:
            return "tool_use"
        if "default" in self.sources:
            return "default"
        raise CheckpointError(f"None of the chat templates is the default one: {', '.join(sorted(self.sources))}.")
