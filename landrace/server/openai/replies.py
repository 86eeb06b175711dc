"""Engine outputs in the API's response shapes."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Sequence
from typing import Any

from landrace.engine.outputs import StepOutput, TokenLogprob
from landrace.server.generation import Choice, Prompt
from landrace.text import Tokenizer
from landrace.text.answers import ToolCall

_LEAST_LOGPROB = -9999.0
"""What the API says of a token that is out of the question."""


class ChatShape:
    """`chat.completion` and its chunks, for one call."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, tokenizer: Tokenizer, *, wants_logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._wants_logprobs = wants_logprobs

    def choice(self, choice: Choice) -> dict[str, Any]:
        said = None if choice.calls and not choice.content else choice.content
        calls = {"tool_calls": [_call(call) for call in choice.calls]} if choice.calls else {}
        return {
            "index": choice.index,
            "message": {
                "role": "assistant",
                "content": said,
                "refusal": None,
                **_thought(choice.reasoning),
                **calls,
            },
            "logprobs": self._logprobs(choice.logprobs),
            "finish_reason": _finish_reason(choice),
        }

    def opening(self, choice: Choice) -> dict[str, Any]:
        """The first chunk of a choice says who speaks."""
        delta = {"role": "assistant", "content": ""}
        return {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}

    def delta(self, choice: Choice, output: StepOutput) -> dict[str, Any] | None:
        """The chunk for what an output brought, which `choice` has taken; None where there is nothing to say."""
        parts = choice.brought
        first = len(choice.calls) - len(parts.calls)
        calls = [{"index": first + n, **_call(call)} for n, call in enumerate(parts.calls)]
        delta = {
            **_thought(parts.reasoning),
            **({"content": parts.content} if parts.content else {}),
            **({"tool_calls": calls} if calls else {}),
        }
        if not (delta or output.logprobs or output.finish_reason):
            return None
        return {
            "index": choice.index,
            "delta": delta,
            "logprobs": self._logprobs(output.logprobs),
            "finish_reason": _finish_reason(choice) if output.finish_reason else None,
        }

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._wants_logprobs:
            return None
        content = [
            {
                **self._entry(item.token_id, item.logprob),
                "top_logprobs": [self._entry(token, logprob) for token, logprob in item.top],
            }
            for item in logprobs
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self._tokenizer.token_bytes(token)
        return {"token": _spelled(raw, ""), "logprob": _finite(logprob), "bytes": list(raw)}


class CompletionShape:
    """`text_completion`, for one call; streamed chunks have the same shape.

    `text_offset` counts the characters of the reply's text before a token, over all chunks of a choice.
    """

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def __init__(self, tokenizer: Tokenizer, *, wants_logprobs: bool, echo: bool) -> None:
        self._tokenizer = tokenizer
        self._wants_logprobs = wants_logprobs
        self._echo = echo
        self._offsets: dict[int, _Offsets] = {}

    def choice(self, choice: Choice) -> dict[str, Any]:
        before = self._prompt_entries(choice)
        return self._reply(choice, self._prompt(choice) + choice.text, before, choice.logprobs, choice.finish_reason)

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        """With `echo`, the prompt goes first; its scores must be complete."""
        if not self._echo:
            return None
        return self._reply(choice, self._prompt(choice), self._prompt_entries(choice), (), None)

    def delta(self, choice: Choice, output: StepOutput) -> dict[str, Any] | None:
        """The chunk for what an output brought; None where there is nothing to say."""
        if not (output.text or output.logprobs or output.finish_reason):
            return None
        return self._reply(choice, output.text, [], output.logprobs, output.finish_reason)

    def _prompt(self, choice: Choice) -> str:
        if not self._echo:
            return ""
        prompt = choice.prompt
        return self._tokenizer.decode(prompt.ids, skip_special=False) if prompt.text is None else prompt.text

    def _prompt_entries(self, choice: Choice) -> list[tuple[int, TokenLogprob | None]]:
        if not (self._echo and self._wants_logprobs):
            return []
        scored = choice.prompt_logprobs
        unscored = choice.prompt.ids[: len(choice.prompt.ids) - len(scored)]
        return [*((token, None) for token in unscored), *((item.token_id, item) for item in scored)]

    def _reply(
        self,
        choice: Choice,
        text: str,
        before: list[tuple[int, TokenLogprob | None]],
        logprobs: Sequence[TokenLogprob],
        finish: str | None,
    ) -> dict[str, Any]:
        entries = [*before, *((item.token_id, item) for item in logprobs)]
        return {
            "index": choice.index,
            "text": text,
            "logprobs": self._logprobs(choice, entries, len(before)) if self._wants_logprobs else None,
            "finish_reason": finish,
        }

    def _logprobs(
        self, choice: Choice, entries: list[tuple[int, TokenLogprob | None]], n_prompt: int
    ) -> dict[str, Any]:
        offsets = self._offsets.get(choice.index)
        if offsets is None:
            offsets = self._offsets[choice.index] = _Offsets(self._tokenizer, choice.prompt if self._echo else None)
        return {
            "tokens": [self._token(token) for token, _ in entries],
            "token_logprobs": [_finite(item.logprob) if item else None for _, item in entries],
            "top_logprobs": [
                _best_of_each((self._token(token), _finite(logprob)) for token, logprob in item.top) if item else None
                for _, item in entries
            ],
            "text_offset": [
                offsets.before(token, of_prompt=index < n_prompt) for index, (token, _) in enumerate(entries)
            ],
        }

    def _token(self, token: int) -> str:
        return _spelled(self._tokenizer.token_bytes(token), "bytes:")


class _Offsets:
    """Where in the text of one choice each token begins, in characters; a token inside a character where that does."""

    def __init__(self, tokenizer: Tokenizer, echoed: Prompt | None) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._skips_in_prompt = echoed is not None and echoed.text is not None
        # A SentencePiece vocabulary puts a space before a text, which the text itself does not have.
        self._position = -1 if echoed is not None and tokenizer.conventions.adds_space else 0

    def before(self, token: int, *, of_prompt: bool) -> int:
        """The offset of the next token. A control token takes no room where the text does not show it."""
        skips = self._skips_in_prompt or not of_prompt
        data = self._tokenizer.shown_bytes(token, skip_special=skips)
        unfinished = bool(self._utf8.getstate()[0])
        continues = data[:1] == b"" or data[0] & 0xC0 == 0x80  # UTF-8 marks the bytes that go on with a character
        position = self._position + (unfinished and not continues)
        self._position += len(self._utf8.decode(data))
        return max(0, position)


Shape = ChatShape | CompletionShape


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _thought(text: str) -> dict[str, str]:
    """Under both names that clients read."""
    return {"reasoning_content": text, "reasoning": text} if text else {}


def _finish_reason(choice: Choice) -> str | None:
    return "tool_calls" if choice.calls and choice.finish_reason == "stop" else choice.finish_reason


def _spelled(token: bytes, mark: str) -> str:
    """A token as text. Of one that is no whole number of characters, the API shows the bytes behind `mark`, so that
    tokens with different bytes never look the same."""
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return mark + "".join(f"\\x{byte:02x}" for byte in token)


def _finite(logprob: float) -> float:
    """JSON has no infinity."""
    return max(logprob, _LEAST_LOGPROB)


def _best_of_each(entries: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Tokens, the likeliest first, by their text; of several with the same bytes the likeliest."""
    best: dict[str, float] = {}
    for text, logprob in entries:
        best.setdefault(text, logprob)
    return best
