"""The soak's clients: each asks, listens, goes away or sends nonsense, and notes how every call ended."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx
from patience import SECONDS
from soak_calls import (
    CHAT,
    EMBEDDING,
    JSON,
    Question,
    bad_call,
    error_of,
    events,
    long_chat,
    name_of,
    response_id,
    said,
    whole,
)

_AWAY = ("engine_restarting", "overloaded_error")
"""An engine that is being replaced, in the words of OpenAI and of Anthropic."""


@dataclass
class Account:
    """How calls ended."""

    calls: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    owed: dict[str, int] = field(default_factory=dict)
    """Rows of usage by the id of an answer, wherever one was told."""
    nameless: int = 0
    """Embeddings that were answered: a row each, and an answer without an id."""
    unknown_rows: int = 0
    """The most rows that calls may have which ended before an id was told."""
    faults: list[str] = field(default_factory=list)


class Load:
    """Calls of many clients at once. `reply` of a question is what the idle server said."""

    def __init__(self, url: str, asked: Sequence[Question], replies: Sequence[Any], models: Sequence[str], seed: int):
        self.account = Account()
        self._url = url
        self._pairs = list(zip(asked, replies, strict=True))
        self._models = models
        self._seed = seed
        self._round = 0

    def run(self, n_calls: int, n_clients: int) -> None:
        """Returns when every call has ended."""
        asyncio.run(self._all(n_calls, n_clients))

    async def _all(self, n_calls: int, n_clients: int) -> None:
        self._round += 1
        left = iter(range(n_calls))
        bounds = httpx.Limits(max_connections=n_clients, max_keepalive_connections=n_clients)
        async with httpx.AsyncClient(limits=bounds, timeout=SECONDS, base_url=self._url) as http:

            async def client(number: int) -> None:
                for call in left:
                    rng = Random(f"{self._seed} {self._round} {call}")
                    try:
                        async with asyncio.timeout(SECONDS):
                            await self._one(http, rng)
                    except Exception as error:  # noqa: BLE001  told with the call that it befell
                        self.account.faults.append(f"call {call} of round {self._round}: {error!r}")
                    self.account.calls += 1

            await asyncio.gather(*(client(number) for number in range(n_clients)))

    async def _one(self, http: httpx.AsyncClient, rng: Random) -> None:
        kind = rng.random()
        if kind < 0.08:
            await self._bad(http, rng)
        elif kind < 0.16:
            await self._leaves(http, rng)
        elif kind < 0.24:
            await self._cancels(http, rng)
        elif kind < 0.27:
            await self._late(http, rng)
        else:
            await self._asks(http, rng)

    async def _bad(self, http: httpx.AsyncClient, rng: Random) -> None:
        path, body, status = bad_call(rng, rng.choice(self._models))
        reply = await http.post(path, content=body, headers=JSON)
        name = name_of(reply.json()["error"])
        assert name is not None and (reply.status_code == status or name in _AWAY), (body, reply.text)
        self.account.ends["refused"] += 1

    async def _late(self, http: httpx.AsyncClient, rng: Random) -> None:
        """A call that has little time."""
        asked = long_chat(rng, rng.choice(self._models))
        reply = await http.post(CHAT, json={**asked.body, "timeout_seconds": rng.uniform(0.001, 0.3)})
        code = "answered" if reply.status_code == 200 else name_of(reply.json()["error"])
        assert code in ("answered", "deadline_exceeded", *_AWAY), reply.text
        self._note(asked, reply.json(), f"late: {code}")

    async def _leaves(self, http: httpx.AsyncClient, rng: Random) -> None:
        """Goes away in the middle of a stream."""
        asked, patience = long_chat(rng, rng.choice(self._models)), rng.randrange(1, 20)
        first = None
        async with http.stream("POST", CHAT, json={**asked.body, "stream": True}) as reply:
            if reply.status_code == 200:
                async for line in reply.aiter_lines():
                    for event in events([line]):
                        first = first or event
                        patience -= 1
                    if patience <= 0:
                        break
        self._note(asked, first or {}, "left")

    async def _cancels(self, http: httpx.AsyncClient, rng: Random) -> None:
        """Goes away at any moment, before the first byte of the reply too."""
        asked = long_chat(rng, rng.choice(self._models)) if rng.random() < 0.5 else rng.choice(self._pairs)[0]
        told: dict[str, Any] = {}
        try:
            async with asyncio.timeout(rng.uniform(0, 0.3)):
                told = (await http.post(asked.path, json=asked.body)).json()
        except TimeoutError:
            pass
        self._note(asked, told, "was quick" if told else "cancelled")

    async def _asks(self, http: httpx.AsyncClient, rng: Random) -> None:
        """As long as an engine is being replaced it asks again, as it is told to."""
        asked, expected = rng.choice(self._pairs)
        streamed = asked.streams and rng.random() < 0.5
        while True:
            told, again = await (self._stream if streamed else self._post)(http, asked)
            error = error_of(told[-1])
            if error is None:
                break
            name = name_of(error)
            assert name in _AWAY, error
            self._note(asked, told[0], f"error: {name}")
            await asyncio.sleep(again)
        answer = said(asked.path, whole(asked.path, told) if streamed else told[0])
        assert answer == expected, f"{asked} was answered {answer}, on the idle server {expected}"
        self._note(asked, told[0], "streamed" if streamed else "whole")

    async def _post(self, http: httpx.AsyncClient, asked: Question) -> tuple[list[dict[str, Any]], float]:
        reply = await http.post(asked.path, json=asked.body)
        return [reply.json()], float(reply.headers.get("retry-after", 1))

    async def _stream(self, http: httpx.AsyncClient, asked: Question) -> tuple[list[dict[str, Any]], float]:
        async with http.stream("POST", asked.path, json={**asked.body, "stream": True}) as reply:
            again = float(reply.headers.get("retry-after", 1))
            if reply.status_code != 200:
                return [json.loads(await reply.aread())], again
            return list(events([line async for line in reply.aiter_lines()])), again

    def _note(self, asked: Question, told: dict[str, Any], end: str) -> None:
        self.account.ends[end] += 1
        identity = response_id(told)
        if asked.path == EMBEDDING and "data" in told:
            self.account.nameless += 1
        elif identity is None:
            self.account.unknown_rows += asked.rows
        else:
            self.account.owed[identity] = asked.rows


class Watcher:
    """Asks for the server's health all the time. Leave the block to know that it always answered."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.looks = 0
        self.faults: list[str] = []

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(SECONDS)

    def _look(self) -> None:
        with httpx.Client(timeout=SECONDS) as http:
            while not self._over.is_set():
                try:
                    reply = http.get(f"{self._url}/health")
                    if reply.status_code != 200:
                        self.faults.append(reply.text)
                except httpx.HTTPError as error:
                    self.faults.append(repr(error))
                self.looks += 1
                self._over.wait(0.1)
