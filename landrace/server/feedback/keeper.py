"""`Keeper`: writes feedback, and conversations whose callers agreed to it, to the ledger."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from landrace.errors import LandraceError
from landrace.ledger.conversations import Exchange, Feedback
from landrace.server.access.caller import Caller
from landrace.server.generation import Choice, Generation
from landrace.server.logs.redaction import Redactor
from landrace.server.openai.replies import ChatShape

if TYPE_CHECKING:
    from landrace.ledger import Ledger

_log = logging.getLogger(__name__)


class Keeper:
    """Of one server. `keeps_conversations`: whether calls may ask that theirs is kept."""

    def __init__(self, ledger: Ledger, *, keeps_conversations: bool, redact: Redactor | None = None) -> None:
        """`redact`: what texts pass before they are kept."""
        self._ledger = ledger
        self._redact = redact
        self.keeps_conversations = keeps_conversations
        self._writing: dict[str, asyncio.Task[None]] = {}
        """By response."""

    async def close(self) -> None:
        """Waits for what is being written."""
        await asyncio.gather(*self._writing.values(), return_exceptions=True)
        self._ledger.close()

    async def add(self, feedback: Feedback, exchange: Exchange | None) -> tuple[int, bool]:
        """Keeps what was said, and the texts if they came with it. Returns its number, and whether there are texts to
        learn from. Raises what the ledger raises, and RedactionError."""

        def write() -> tuple[int, bool]:
            said = feedback if self._redact is None else self._redact.feedback(feedback)
            if exchange is not None:
                self._add(exchange)
            number = self._ledger.exchanges.add_feedback(said)
            return number, exchange is not None or self._ledger.exchanges.knows(feedback.response_id, feedback.choice)

        if (writing := self._writing.get(feedback.response_id)) is not None:
            await asyncio.wait({writing})
        return await asyncio.to_thread(write)

    def keeping(
        self, response_id: str, model: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]],
        shape: ChatShape, caller: Caller,
    ) -> Callable[[Generation], None]:  # fmt: skip
        """What keeps a conversation when its answers are there. Nobody waits for it; a ledger that refuses is told."""
        name = conversation_of(messages, caller)

        def write(exchanges: Sequence[Exchange]) -> None:
            try:
                for exchange in exchanges:
                    self._add(exchange)
            except LandraceError as error:
                _log.error("The conversation of %s was not kept: %s", response_id, error.message)

        def ended(generation: Generation) -> None:
            exchanges = [
                Exchange(
                    response_id=response_id,
                    choice=choice.index,
                    conversation=name,
                    model=model,
                    messages=messages,
                    answer=_answer(shape, choice),
                    finish_reason=choice.finish_reason,
                    tools=tools,
                    key_id=caller.key_id,
                    team=caller.team or None,
                )
                for choice in generation.choices
                if choice.finish_reason in ("stop", "length")
            ]
            task = asyncio.get_running_loop().create_task(asyncio.to_thread(write, exchanges))
            self._writing[response_id] = task
            task.add_done_callback(lambda _: self._writing.pop(response_id, None))

        return ended

    def _add(self, exchange: Exchange) -> None:
        self._ledger.exchanges.add(exchange if self._redact is None else self._redact.exchange(exchange))


def conversation_of(messages: Sequence[Mapping[str, Any]], caller: Caller) -> str:
    """A name that all turns of a conversation have, since they begin alike."""
    opening = []
    for message in messages:
        opening.append((message.get("role"), message.get("content")))
        if message.get("role") == "user":
            break
    return sha256(f"{caller.key_id}\n{opening!r}".encode("utf-8", "backslashreplace")).hexdigest()[:32]


def _answer(shape: ChatShape, choice: Choice) -> dict[str, Any]:
    message = shape.choice(choice)["message"]
    return {name: value for name, value in message.items() if value is not None and name != "reasoning"}
