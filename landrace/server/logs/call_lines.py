"""A line for each call."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from landrace.server.logs.ended_call import EndedCall
from landrace.server.logs.lines import FIELDS
from landrace.server.logs.redaction import RedactionError, Redactor

_MOST_CHARACTERS = 4000
"""Of a text that is logged."""
_MOST_TEXTS = 8
"""Prompts, and answers, of a call that are logged."""
_MOST_SENT = 200
"""Characters of a name or a path as the client wrote it."""
_log = logging.getLogger("landrace.calls")


class CallLines:
    """Writes them as records of the logger `landrace.calls`."""

    def __init__(self, *, addresses: bool = False, prompts: bool = False, redact: Redactor | None = None) -> None:
        """`addresses`: with the client's. `prompts`: with texts, which pass `redact` first."""
        self._addresses = addresses
        self._prompts = prompts
        self._redact = redact
        _log.setLevel(logging.INFO)

    def tell(self, call: EndedCall) -> None:
        record = _log.makeRecord(_log.name, logging.INFO, "", 0, "call", (), None, extra={FIELDS: self.fields(call)})
        record.created = call.ended
        _log.handle(record)

    def close(self) -> None:
        """Nothing is held back."""

    def fields(self, call: EndedCall) -> dict[str, Any]:
        """By name; what does not apply to the call is left out."""
        tally, counts = call.tally, call.tally.counts
        computed = bool(tally.choices)
        told = {
            "request_id": call.request_id,
            "response_id": tally.answer_id,
            "key": call.caller.name or None,
            "team": call.caller.team or None,
            "address": call.address if self._addresses else None,
            "method": call.method,
            "route": call.route,
            "path": None if call.route else _cut(call.path, _MOST_SENT),
            "model": None if tally.model is None else _cut(tally.model, _MOST_SENT),
            "status": call.status,
            "error": call.error,
            "finish_reason": ",".join(dict.fromkeys(one.finish_reason or "none" for one in tally.choices)) or None,
            "prompt_tokens": counts.prompt_tokens if computed else None,
            "cached_tokens": counts.cached_tokens if computed else None,
            "generated_tokens": counts.completion_tokens if computed else None,
            "first_token_seconds": _rounded(call.first_token_seconds),
            "seconds": _rounded(call.seconds),
        }
        texts = self._texts(call) if self._prompts and computed else {}
        return {name: value for name, value in told.items() if value is not None} | texts

    def _texts(self, call: EndedCall) -> dict[str, Any]:
        answers = [choice.text for choice in call.tally.choices[:_MOST_TEXTS] if choice.n_tokens]
        try:
            return {
                "prompts": [self._logged(text) for text in _prompts(call)],
                "answers": [self._logged(text) for text in answers],
            }
        except RedactionError as error:
            return {"texts_left_out": error.message}

    def _logged(self, text: str) -> str:
        # Redacted as a whole: half of a number is not found.
        return _cut(text if self._redact is None else self._redact(text), _MOST_CHARACTERS)


def _prompts(call: EndedCall) -> Iterator[str]:
    """Each once, as it was sent, or as the model read it."""
    prompts = {id(choice.prompt): choice.prompt for choice in call.tally.choices}
    for prompt in [*prompts.values()][:_MOST_TEXTS]:
        if prompt.text is not None:
            yield prompt.text
        elif call.tally.tokenizer is not None:
            yield call.tally.tokenizer.decode(prompt.ids, skip_special=False)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text) - most:,} more characters)"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
