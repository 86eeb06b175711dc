"""Engine outputs in the API's response shapes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from landrace.engine.outputs import TokenLogprob
from landrace.server.generation import Choice
from landrace.text import Tokenizer


class ChatShape:
    """`chat.completion` and its chunks."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, tokenizer: Tokenizer, wants_logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._wants_logprobs = wants_logprobs

    def choice(self, choice: Choice) -> dict[str, Any]:
        return {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text},
            "logprobs": self._logprobs(choice.logprobs),
            "finish_reason": choice.finish_reason,
        }

    def opening(self, choice: Choice) -> dict[str, Any]:
        """The first chunk of a choice says who speaks."""
        delta = {"role": "assistant", "content": ""}
        return {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}

    def delta(self, choice: Choice, text: str, logprobs: Sequence[TokenLogprob], finish: str | None) -> dict[str, Any]:
        return {
            "index": choice.index,
            "delta": {"content": text} if text else {},
            "logprobs": self._logprobs(logprobs),
            "finish_reason": finish,
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
        return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}


class CompletionShape:
    """`text_completion`; streamed chunks have the same shape."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def __init__(self, tokenizer: Tokenizer, wants_logprobs: bool, echo: bool) -> None:
        self._tokenizer = tokenizer
        self._wants_logprobs = wants_logprobs
        self._echo = echo

    def choice(self, choice: Choice) -> dict[str, Any]:
        return self._reply(choice, self._prompt(choice) + choice.text, choice.logprobs, choice.finish_reason)

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        """With `echo`, the prompt goes first."""
        return self._reply(choice, self._prompt(choice), (), None) if self._echo else None

    def delta(self, choice: Choice, text: str, logprobs: Sequence[TokenLogprob], finish: str | None) -> dict[str, Any]:
        return self._reply(choice, text, logprobs, finish, streamed=True)

    def _prompt(self, choice: Choice) -> str:
        return self._tokenizer.decode(list(choice.prompt_ids), skip_special=False) if self._echo else ""

    def _reply(
        self,
        choice: Choice,
        text: str,
        logprobs: Sequence[TokenLogprob],
        finish: str | None,
        *,
        streamed: bool = False,
    ) -> dict[str, Any]:
        entries: list[tuple[int, TokenLogprob | None]] = [(item.token_id, item) for item in logprobs]
        if self._echo and not streamed:
            scored = choice.prompt_logprobs
            unscored = len(choice.prompt_ids) - len(scored)
            entries = (
                [(token, None) for token in choice.prompt_ids[:unscored]]
                + [(item.token_id, item) for item in scored]
                + entries
            )
        return {
            "index": choice.index,
            "text": text,
            "logprobs": self._logprobs(entries) if self._wants_logprobs else None,
            "finish_reason": finish,
        }

    def _logprobs(self, entries: list[tuple[int, TokenLogprob | None]]) -> dict[str, Any]:
        tokens = [self._token(token) for token, _ in entries]
        offsets, position = [], 0
        for token in tokens:
            offsets.append(position)
            position += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [item.logprob if item else None for _, item in entries],
            "top_logprobs": [
                {self._token(token): logprob for token, logprob in item.top} if item else None for _, item in entries
            ],
            "text_offset": offsets,
        }

    def _token(self, token: int) -> str:
        return self._tokenizer.token_bytes(token).decode("utf-8", "replace")


Shape = ChatShape | CompletionShape


def envelope(kind: str, call_id: str, model: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """What is around the choices of a reply or a chunk."""
    return {"id": call_id, "object": kind, "created": int(time.time()), "model": model, "choices": choices, **more}
