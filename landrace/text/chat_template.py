"""A model's chat template: messages to the text the model was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from landrace.errors import CheckpointError, RequestError
from landrace.text.template_process import TemplateProcess

MAX_SOURCE = 1_000_000
_MAX_DEPTH = 64
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
_PROBE = "Landrace-7f3a"


class ChatTemplate:
    """Jinja source that turns messages into text, rendered in a process that can be stopped.

    `source` is one template, or several by name: "default", and "tool_use" for conversations with tools. Templates see
    `messages`, `tools`, `add_generation_prompt`, the special tokens by name (`bos_token`, `eos_token` and those in
    `tokens`) and whatever else `render` is given (`enable_thinking=False`, `documents=...`), as in `transformers`.
    `now` answers the templates that write today's date.
    """

    def __init__(
        self,
        source: str | Mapping[str, str],
        bos_token: str | None = None,
        eos_token: str | None = None,
        *,
        tokens: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.sources = {"default": source} if isinstance(source, str) else dict(source)
        if any(len(text) > MAX_SOURCE for text in self.sources.values()):
            raise CheckpointError(f"The chat template is longer than {MAX_SOURCE:,} characters.")
        named = {**(tokens or {}), "bos_token": bos_token, "eos_token": eos_token}
        self._tokens = {name: token for name, token in named.items() if token is not None}
        self._now = now
        self._process = TemplateProcess(self.sources)

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
        """The conversation as text.

        Raises RequestError(field="messages") for messages that are malformed or that the template refuses, and
        CheckpointError for a template that is broken or breaks its bounds.
        """
        plain = _checked_messages(messages)
        if any(isinstance(message.get("content"), list) for message in plain) and not self._takes_parts:
            plain = [_with_joined_parts(message) for message in plain]
        return self._run(plain, _checked_tools(tools), add_generation_prompt, variables)

    def _run(
        self, messages: list[Any], tools: list[Any] | None, add_generation_prompt: bool, variables: Mapping[str, Any]
    ) -> str:
        context = {
            **self._tokens,
            "documents": None,
            **_plain(variables, "the template's variables", "chat_template_kwargs"),
            "messages": messages,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        return self._process.render(self._name(tools), context, self._now())

    def _name(self, tools: Sequence[Any] | None) -> str:
        if tools and "tool_use" in self.sources:
            return "tool_use"
        if "default" in self.sources:
            return "default"
        raise CheckpointError(f"None of the chat templates is the default one: {', '.join(sorted(self.sources))}.")

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether the template reads content given as a list of parts: it then writes a part's text and no more."""
        parts = [{"type": "text", "text": _PROBE}]
        try:
            text = self._run([{"role": "user", "content": parts}], None, True, {})
        except RequestError:
            return False
        return _PROBE in text and "'text'" not in text and '"text"' not in text


def _checked_messages(messages: Sequence[Any]) -> list[dict[str, Any]]:
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence) or not messages:
        raise _bad("A conversation is a list of one or more messages.")
    return [_checked_message(message, index) for index, message in enumerate(messages)]


def _checked_message(message: Any, index: int) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise _bad(f"Message {index} is not an object with a role and a content.")
    plain: dict[str, Any] = _plain(message, f"message {index}", "messages")
    if not isinstance(plain.get("role"), str) or not plain["role"]:
        raise _bad(f"Message {index} has no role.")
    content = plain.get("content")
    if content is None and not plain.get("tool_calls"):
        raise _bad(f"Message {index} has no content.")
    if not (content is None or isinstance(content, (str, list))):
        raise _bad(f"The content of message {index} is neither text nor a list of parts.")
    for part in content if isinstance(content, list) else ():
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            kind = part.get("type") if isinstance(part, dict) else part
            raise _bad(f"Message {index} has a content part that is not text: {str(kind)[:40]!r}.")
    reasoning = next((plain[name] for name in _REASONING_FIELDS if plain.get(name) is not None), None)
    if reasoning is None:
        return plain
    # Templates read a message's reasoning under one of two names, callers give it under one of three.
    return {"thinking": reasoning, **plain, "reasoning_content": reasoning}


def _checked_tools(tools: Sequence[Any] | None) -> list[Any] | None:
    if not tools:
        return None
    if not isinstance(tools, Sequence) or not all(isinstance(tool, Mapping) for tool in tools):
        raise RequestError("Tools are a list of objects, each the JSON schema of one function.", field="tools")
    return [_plain(tool, f"tool {index}", "tools") for index, tool in enumerate(tools)]


def _with_joined_parts(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its text parts as one text, a line each, for templates that know only text."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": "\n".join(part["text"] for part in content)}


def _plain(value: Any, where: str, field: str, depth: int = 0) -> Any:
    """A copy in plain JSON types: a template must not get hold of richer objects and their methods."""
    if depth > _MAX_DEPTH:
        raise RequestError(f"In {where}, values are nested deeper than {_MAX_DEPTH} levels.", field=field)
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, where, field, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where, field, depth + 1) for item in value]
    raise RequestError(f"In {where}, a value is not plain JSON but {type(value).__name__}.", field=field)


def _bad(message: str) -> RequestError:
    return RequestError(message, field="messages")
