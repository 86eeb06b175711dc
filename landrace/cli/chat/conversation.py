"""`Conversation`: what was said so far, and the engine that continues it. It reads and writes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from landrace.cli.chat import thinking
from landrace.errors import RequestError

if TYPE_CHECKING:
    from landrace.engine import Completion, Request, SamplingParams, StepOutput
    from landrace.model import ServingModel
    from landrace.text.answers import ToolCall
    from landrace.text.guides import Guide

Message = dict[str, Any]
OnOutput = Callable[["StepOutput"], None]
NAME = "run"
"""Of the one request at a time."""


@dataclass(frozen=True)
class Turn:
    """One answer of the model."""

    completion: Completion
    kept: bool
    """Whether it is part of the conversation now."""
    first_seconds: float
    """Until the first token came."""
    seconds: float

    @property
    def stopped(self) -> bool:
        """Whether the user ended it."""
        return self.completion.finish_reason == "abort"


class Conversation:
    """Messages so far, and how they are answered: whatever is public may be changed between two answers."""

    def __init__(
        self,
        serving: ServingModel,
        params: SamplingParams,
        *,
        adapter: str | None = None,
        system: str | None = None,
        variables: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        guide: Guide | None = None,
        raw: bool = False,
    ) -> None:
        """`variables`: of the model's template. `guide`: what every answer must be. `raw`: each text is continued as it
        is, on its own."""
        self.serving = serving
        self.params = params
        self.adapter = adapter
        self.system = system or None
        self.variables = dict(variables or {})
        self.tools = list(tools)
        self.guide = guide
        self.raw = raw
        self.messages: list[Message] = []
        """Without the system message."""
        self._asked: list[Message] = []
        """The messages up to the question that was asked last, answered or not."""

    def clear(self) -> None:
        """Forgets what was said."""
        self.messages, self._asked = [], []

    def begin(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> None:
        """Goes on from another conversation. RequestError for one that the model's template cannot write."""
        from landrace.text.messages import plain_messages

        plain_messages(messages)
        first = messages[0]
        has_system = first["role"] == "system" and isinstance(first["content"], str)
        self._change(
            messages=list(messages[1:] if has_system else messages),
            system=first["content"] if has_system else None,
            tools=list(tools),
            variables={**self.variables, **variables},
        )
        self._asked = self._up_to_question()

    def use_system(self, system: str | None) -> None:
        """From the next answer on. RequestError where the template has no place for it."""
        self._change(system=system)

    def use_tools(self, tools: Sequence[Mapping[str, Any]]) -> None:
        """Lets the model call these. RequestError where its template cannot tell it of them."""
        self._change(tools=list(tools))

    def use_guide(self, guide: Guide | None) -> None:
        """What answers must be from now on. RequestError for one that cannot be followed."""
        from landrace.text.guides import check_guide

        if guide is not None:
            check_guide(guide, self.serving.model.tokenizer)
        self.guide = guide

    def think(self, how: str) -> None:
        """on, off, or the most tokens of thoughts. RequestError where the model's template has no way to say so."""
        limit = thinking.budget(how)
        self._change(variables=thinking.with_thinking(self.serving.model.tokenizer, self.variables, how))
        self.params = replace(self.params, thinking_budget=limit)

    def use_effort(self, effort: str) -> None:
        """How much to reason, in the template's words. RequestError where it knows none, or not this one."""
        self._change(variables=thinking.with_effort(self.serving.model.tokenizer, self.variables, effort))

    def _change(self, **values: Any) -> None:
        """Sets attributes. RequestError, and nothing is changed, where the template cannot write what comes of it."""
        before = {name: getattr(self, name) for name in values}
        vars(self).update(values)
        try:
            self._prompt(self.messages or [{"role": "user", "content": "Hello"}])
        except RequestError:
            vars(self).update(before)
            raise

    def ask(self, text: str, on_output: OnOutput | None = None, stopped: Callable[[], bool] | None = None) -> Turn:
        """Adds the user's message and the model's answer. A failed answer leaves the conversation as it was, and so
        does one that was `stopped` before anything was said; one stopped later is kept as far as it came."""
        self._asked = [*self.messages, {"role": "user", "content": text}]
        return self._answer(self._asked, on_output, stopped)

    def retry(self, on_output: OnOutput | None = None, stopped: Callable[[], bool] | None = None) -> Turn:
        """Another answer to the last message of the user, in place of the one it had."""
        if not self._asked:
            raise RequestError("There is no message yet that could be answered again.")
        return self._answer(self._asked, on_output, stopped)

    def give_results(
        self, results: Sequence[str], on_output: OnOutput | None = None, stopped: Callable[[], bool] | None = None
    ) -> Turn:
        """Answers the `open_calls`, in their order, and adds what the model says to that."""
        told = [
            {"role": "tool", "tool_call_id": call["id"], "name": call["function"]["name"], "content": result}
            for call, result in zip(self.open_calls, results, strict=True)
        ]
        return self._answer([*self.messages, *told], on_output, stopped)

    @property
    def open_calls(self) -> list[Message]:
        """Calls of the model's last message, which wait for their results."""
        return list(self.messages[-1].get("tool_calls") or ()) if self.messages else []

    def drop_calls(self) -> None:
        """Goes on without results: the model's last message is kept without its calls, or where it said nothing else,
        nothing since the user's question."""
        last = self.messages.pop()
        if last["content"]:
            self.messages.append({key: value for key, value in last.items() if key != "tool_calls"})
        else:
            self.messages = self._up_to_question()[:-1]

    @property
    def asked(self) -> bool:
        """Whether there is a question that `retry` can answer again."""
        return bool(self._asked)

    @property
    def tool_names(self) -> str:
        return ", ".join(tool["function"]["name"] for tool in self.tools)

    @property
    def thinking(self) -> str:
        """How much the model is told to think."""
        if self.params.thinking_budget is not None:
            return f"for at most {self.params.thinking_budget} tokens"
        told = ", ".join(f"{name}={value}" for name, value in self.variables.items())
        return told or "as its template has it"

    @property
    def whole(self) -> list[Message]:
        """The messages with the system message, as they are saved."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.messages]

    @property
    def context(self) -> int:
        """Most tokens of a conversation, the next answer included."""
        return self.serving.engine.max_length

    def used(self) -> int | None:
        """Tokens of the conversation; None where the model's template cannot write it."""
        if self.raw or not self.messages:
            return 0
        try:
            return len(self._prompt(self.messages, question=False)[1])
        except RequestError:
            return None

    def said(self, completion: Completion) -> str:
        """What the model says, without its thoughts."""
        return completion.text if self.raw else completion.parts.content

    def _answer(self, asked: list[Message], on_output: OnOutput | None, stopped: Callable[[], bool] | None) -> Turn:
        from landrace.engine import Completion

        request = self._request(asked)
        started = time.perf_counter()
        first: float | None = None
        outputs = []
        engine = self.serving.engine
        engine.add(request)
        try:
            while engine.has_work:
                for output in engine.step():
                    outputs.append(output)
                    if first is None and output.token_ids:
                        first = time.perf_counter() - started
                    if on_output is not None:
                        on_output(output)
                if stopped is not None and stopped():
                    engine.abort(NAME)
        except BaseException:  # an interrupt, or a failure in on_output: leave an idle engine behind
            engine.abort(NAME)
            engine.step()
            raise
        completion = Completion.of(request, outputs)
        if completion.error is not None:
            raise completion.error
        seconds = time.perf_counter() - started
        return Turn(completion, self._keep(asked, completion), seconds if first is None else first, seconds)

    def _request(self, asked: list[Message]) -> Request:
        from landrace.engine import Request
        from landrace.text.answers import answer_form

        tokenizer = self.serving.model.tokenizer
        if self.raw:
            ids = tokenizer.encode(asked[-1]["content"], limit=self._limit)
            return Request(NAME, tuple(ids), self.params, self.adapter, guide=self.guide)
        text, ids = self._prompt(asked)
        form = answer_form(tokenizer, text, self.tools)
        return Request(NAME, tuple(ids), self.params, self.adapter, form, guide=self.guide)

    def _prompt(self, messages: Sequence[Message], *, question: bool = True) -> tuple[str, list[int]]:
        """The text and the tokens that the template writes; `question`: with the beginning of an answer."""
        from landrace.text import chat_prompt

        system = [{"role": "system", "content": self.system}] if self.system else []
        prompt = chat_prompt(
            self.serving.model.tokenizer,
            [*system, *messages],
            tools=self.tools or None,
            add_generation_prompt=question,
            limit=self._limit,
            **self.variables,
        )
        return prompt.text, prompt.token_ids

    @property
    def _limit(self) -> int | None:
        """Most tokens of a prompt: what is longer is refused before it is read to its end."""
        engine = self.serving.engine
        return None if engine.options.shifts else engine.max_length

    def _keep(self, asked: list[Message], completion: Completion) -> bool:
        """Makes an answer part of the conversation, if there is one."""
        stopped = completion.finish_reason == "abort"
        content, calls = self.said(completion), () if stopped else completion.parts.calls
        if self.raw or (stopped and not content.strip()):
            return False
        # Whether the model sees its thoughts again is the template's to say.
        reasoning = completion.parts.reasoning
        answer = {
            "role": "assistant",
            "content": content,
            **({"reasoning_content": reasoning} if reasoning else {}),
            **({"tool_calls": [as_message(call) for call in calls]} if calls else {}),
        }
        self.messages = [*asked, answer]
        return True

    def _up_to_question(self) -> list[Message]:
        last = max((n for n, message in enumerate(self.messages) if message["role"] == "user"), default=-1)
        return self.messages[: last + 1]


def as_message(call: ToolCall) -> Message:
    """A call as the OpenAI API writes it in a message."""
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
