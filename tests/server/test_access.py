"""Keys, as the middleware sees them: who is let in, to what, how often."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fake_engines import registry_of
from fastapi import APIRouter, Request
from patience import wait_until

from landrace.errors import DataError, OptionError
from landrace.ledger.keys import Key, Spent
from landrace.server import app as application
from landrace.server.access import keys as access_keys
from landrace.server.access.caller import caller_of
from landrace.server.access.keys import KeyDesk
from landrace.server.access.limits import Allowance, Bucket
from landrace.server.access.requirement import keys_needed
from landrace.server.access.route_groups import ADMIN, COMMON, OPEN, OTHER, group_of
from landrace.server.access.tally import Counts, tally_of
from landrace.server.app import create_app
from landrace.server.edge import Edge
from landrace.server.engines.hosted import Adapter
from landrace.server.engines.registry import Registry
from landrace.server.http.errors import ApiError
from landrace.server.serving import Serving
from landrace.server.usage import UsageLog

NOW = datetime.now(UTC)
KEY = Key(id="key_1", name="support", created=NOW)
RELEASED = threading.Event()
"""Set when calls that are held may end."""
NOTHING = Spent(0, 0, Decimal(0))


class Book:
    """A ledger's keys by their secrets."""

    def __init__(self, **keys: Key) -> None:
        self.by_secret = keys
        self.cost = Decimal(0)
        self.asked: list[str] = []
        self.fails: Exception | None = None

    def key_of(self, secret: str) -> Key | None:
        self.asked.append(secret)
        if self.fails is not None:
            raise self.fails
        return self.by_secret.get(secret)

    def spent(self, key_id: str, since: datetime) -> Spent:
        assert (since.day, since.hour, since.minute) == (1, 0, 0)
        return replace(NOTHING, cost=self.cost)


def routes(serving: Serving) -> APIRouter:
    """One route of each kind, which say who called."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat(http: Request) -> dict[str, Any]:
        body = await http.json()
        await serving.find(http, body.get("model", "m"))
        used = Counts(body.get("prompt", 0), body.get("used", 0), body.get("seconds", 0.0))
        tally_of(http).begin(body.get("prompt", 0), body.get("most", 0), lambda: used)
        while body.get("held") and not RELEASED.is_set():
            await asyncio.sleep(0.01)
        return {"caller": caller_of(http).name, "key": caller_of(http).key_id, "team": caller_of(http).team}

    @router.post("/v1/embeddings")
    @router.post("/admin/keys")
    @router.get("/ready")
    async def other(http: Request) -> dict[str, Any]:
        return {"caller": caller_of(http).name}

    return router


@pytest.fixture
def book() -> Book:
    return Book(good=KEY)


@pytest.fixture
def call(book: Book, monkeypatch: pytest.MonkeyPatch) -> Callable[..., httpx.Response]:
    """Calls the application through all its middleware, in one event loop for each test."""
    from landrace.server import models as model_routes
    from landrace.server import status
    from landrace.server.ollama import routes as ollama

    monkeypatch.setattr(application, "_APIS", (status, model_routes, ollama, SimpleNamespace(routes=routes)))
    monkeypatch.setattr(model_routes, "facts_of", lambda registry, model: {"id": model.name})
    engine: Any = SimpleNamespace(
        alive=True,
        state="ready",
        trouble=None,
        lost_adapters={},
        unfinished=0,
        max_length=9,
        adapters=(),
    )
    registry = registry_of("m", engine)
    registry.host_of(registry.check("m")).adapters["tuned"] = Adapter(Path("tuned"))
    usage_log = UsageLog(None, name="m", command="", config={})
    edge = Edge(keys=KeyDesk(book), price_per_hour=3600.0, cors_origins=["https://page"])
    app = create_app(Serving(registry, usage_log), edge)

    def one(path: str, secret: str | None = "good", method: str = "POST", **how: Any) -> httpx.Response:
        headers = {**({"Authorization": f"Bearer {secret}"} if secret is not None else {}), **how.pop("headers", {})}

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                body = {} if method in ("GET", "OPTIONS") else {"json": how.pop("json", {})}
                return await client.request(method, path, headers=headers, **body, **how)

        return asyncio.run(send())

    return one


CHAT = "/v1/chat/completions"


def refusal(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def test_a_key_opens_and_names_its_caller(call: Any, book: Book) -> None:
    book.by_secret["good"] = replace(KEY, team="help desk")
    assert call(CHAT).json() == {"caller": "support", "key": "key_1", "team": "help desk"}


def test_anthropics_clients_send_it_in_a_header_of_their_own(call: Any) -> None:
    assert call(CHAT, None, headers={"x-api-key": "good"}).status_code == 200
    assert call(CHAT, "bad", headers={"x-api-key": "good"}).status_code == 401


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/nosuch", "/", "/admin/keys"])
def test_without_a_key_there_is_nothing_but_health(call: Any, path: str) -> None:
    if path == "/":
        assert call(path, None, "GET").status_code == 404  # the page would be here: its files are no secret
        return
    reply = call(path, None, "GET")
    assert refusal(reply) == (401, "missing_api_key")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert "x-request-id" in reply.headers


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_health_needs_none(call: Any, path: str) -> None:
    assert call(path, None, "GET").status_code == 200


@pytest.mark.parametrize("given", ["Bearer", "Bearer ", "Basic good", "good", ""])
def test_what_is_no_bearer_is_no_key(call: Any, given: str) -> None:
    assert refusal(call(CHAT, None, headers={"Authorization": given})) == (401, "missing_api_key")


def test_keys_that_do_not_count(call: Any, book: Book) -> None:
    book.by_secret |= {
        "old": replace(KEY, expires=NOW - timedelta(seconds=1)),
        "gone": replace(KEY, revoked=NOW),
        "soon": replace(KEY, expires=NOW + timedelta(hours=1)),
    }
    assert refusal(call(CHAT, "guess")) == (401, "invalid_api_key")
    assert refusal(call(CHAT, "old")) == (401, "invalid_api_key")
    assert refusal(call(CHAT, "gone")) == (401, "invalid_api_key")
    assert call(CHAT, "soon").status_code == 200


def test_refusals_reach_a_page_that_may_call(call: Any) -> None:
    reply = call(CHAT, "guess", headers={"Origin": "https://page", "x-request-id": "r1"})
    assert reply.headers["access-control-allow-origin"] == "https://page"
    assert reply.headers["x-request-id"] == "r1"
    asked = {"Origin": "https://page", "Access-Control-Request-Method": "POST"}
    assert call(CHAT, None, "OPTIONS", headers=asked).status_code == 200


def test_a_ledger_that_cannot_be_read_opens_nothing(call: Any, book: Book) -> None:
    for error in (DataError("locked"), RuntimeError("a bug")):
        book.fails = error
        reply = call(CHAT)
        assert refusal(reply) == (503, "keys_unavailable")
        assert "Retry-After" in reply.headers
    book.fails = None
    assert call(CHAT).status_code == 200


def test_a_key_is_looked_up_once_and_again_soon(call: Any, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        assert call(CHAT).status_code == 200
    assert book.asked == ["good"]
    monkeypatch.setattr(access_keys, "_REMEMBERED_SECONDS", 0.0)
    call(CHAT, "new")
    book.by_secret["new"] = replace(KEY, id="key_2")
    assert call(CHAT, "new").status_code == 200
    del book.by_secret["new"]
    assert call(CHAT, "new").status_code == 401


def test_guesses_do_not_fill_the_memory(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_keys, "_MOST_REMEMBERED", 8)
    monkeypatch.setattr(access_keys, "_MOST_WAITING", 16)
    desk = KeyDesk(book)

    async def guess() -> list[int]:
        async def one(number: int) -> int:
            try:
                await desk.find(f"guess {number}")
            except ApiError as error:
                return error.status
            return 200

        return await asyncio.gather(*(one(number) for number in range(40)))

    assert sorted(asyncio.run(guess())) == [401] * 16 + [503] * 24
    assert len(desk._keys._values) == 8


def test_a_look_up_that_hangs_holds_up_no_other_call(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_keys, "_PATIENCE_SECONDS", 0.05)
    desk = KeyDesk(book)

    async def run() -> None:
        await desk.find("good")
        monkeypatch.setattr(book, "key_of", lambda secret: time.sleep(0.5))
        with pytest.raises(ApiError) as caught:
            await desk.find("other")
        assert caught.value.status == 503
        assert await desk.find("good") == KEY

    asyncio.run(run())


def test_routes_and_models_of_a_key(call: Any, book: Book) -> None:
    book.by_secret["good"] = replace(KEY, routes=("chat",), models=("tuned",))
    assert call(CHAT, json={"model": "tuned"}).status_code == 200
    assert refusal(call(CHAT, json={"model": "m"})) == (403, "model_not_allowed")
    assert refusal(call(CHAT, json={"model": "nosuch"})) == (403, "model_not_allowed")
    assert refusal(call("/v1/embeddings")) == (403, "route_not_allowed")
    assert refusal(call("/nosuch")) == (403, "route_not_allowed")
    assert refusal(call("/admin/keys")) == (403, "admin_only")
    assert [model["id"] for model in call("/v1/models", method="GET").json()["data"]] == ["tuned"]
    for path in ("/api/tags", "/api/ps"):
        assert [model["name"] for model in call(path, method="GET").json()["models"]] == ["tuned"]
    assert refusal(call("/v1/models/m", method="GET")) == (403, "model_not_allowed")


def test_administrators(call: Any, book: Book) -> None:
    assert refusal(call("/admin/keys")) == (403, "admin_only")
    book.by_secret["boss"] = replace(KEY, id="key_2", is_admin=True)
    assert call("/admin/keys", "boss").status_code == 200
    assert call("/nosuch", "boss").status_code == 404


def test_requests_a_minute(call: Any, book: Book) -> None:
    book.by_secret["good"] = replace(KEY, requests_per_minute=2)
    first, second, third = call(CHAT), call(CHAT), call(CHAT)
    assert [reply.status_code for reply in (first, second, third)] == [200, 200, 429]
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert 0 < float(first.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 30
    assert third.headers["x-ratelimit-remaining-requests"] == "0"
    assert 1 <= int(third.headers["retry-after"]) <= 30
    assert refusal(third) == (429, "rate_limit_exceeded")
    book.by_secret["other"] = replace(KEY, id="key_2", requests_per_minute=2)
    assert call(CHAT, "other").status_code == 200


def test_tokens_a_minute_are_reserved_and_settled(call: Any, book: Book) -> None:
    book.by_secret["good"] = replace(KEY, tokens_per_minute=1000)
    left = "x-ratelimit-remaining-tokens"
    first = call(CHAT, json={"prompt": 100, "most": 400, "used": 50})
    assert 500 <= int(first.headers[left]) < 520  # the answer is expected to be as long as it may
    second = call(CHAT, json={"prompt": 100, "most": 100, "used": 900})
    assert 650 <= int(second.headers[left]) < 700  # 1000 - 150 - 200, and what came back meanwhile
    third = call(CHAT, json={"prompt": 1, "most": 1})
    assert refusal(third) == (429, "rate_limit_exceeded")
    assert third.headers[left] == "0"
    assert refusal(call(CHAT)) == (429, "rate_limit_exceeded")


def test_a_prompt_above_a_minutes_tokens_would_wait_for_ever(call: Any, book: Book) -> None:
    book.by_secret["good"] = replace(KEY, tokens_per_minute=100)
    assert refusal(call(CHAT, json={"prompt": 101})) == (403, "tokens_per_minute_exceeded")
    assert call(CHAT, json={"prompt": 100, "most": 10_000}).status_code == 200


def test_money_a_month(call: Any, book: Book) -> None:
    book.by_secret["good"] = replace(KEY, money_per_month=Decimal("2.5"))
    assert call(CHAT).status_code == 200
    book.by_secret["spent"] = replace(KEY, id="key_2", money_per_month=Decimal("2.5"))
    book.cost = Decimal("2.5")
    reply = call(CHAT, "spent")
    assert refusal(reply) == (429, "insufficient_quota")
    assert 0 < int(reply.headers["retry-after"]) <= 32 * 86400


def test_what_runs_counts_to_the_money(book: Book, call: Any) -> None:
    book.by_secret["good"] = replace(KEY, money_per_month=Decimal(2))
    assert call(CHAT).status_code == 200  # from here on the key is known, and no look-up is shared by two event loops
    with ThreadPoolExecutor() as pool:
        running = pool.submit(call, CHAT, json={"seconds": 3.0, "held": True})
        wait_until(lambda: call(CHAT).status_code == 429)  # 3 seconds at 1 a second
        RELEASED.set()
        assert running.result().status_code == 200
    assert call(CHAT).status_code == 200  # its cost is in no ledger here


def test_a_bucket_refills_evenly_and_holds_a_minute() -> None:
    bucket = Bucket.full(60, now=0.0)
    bucket.level -= 60
    bucket.fill(10.0)
    assert (bucket.level, bucket.seconds_until(60)) == (10, 50)
    bucket.fill(1000.0)
    assert (bucket.level, bucket.seconds_until(60)) == (60, 0)
    bucket.change(30)
    assert bucket.level == 30


def test_a_limit_that_is_changed_counts_on() -> None:
    allowance = Allowance()
    allowance.set_limits(2, None)
    allowance.take_request()
    allowance.set_limits(1, 10)
    with pytest.raises(ApiError):
        allowance.take_request()
    allowance.set_limits(None, 10)
    allowance.take_request()


@pytest.mark.parametrize(
    ("method", "path", "group"),
    [
        ("GET", "/", OPEN),
        ("GET", "/health", OPEN),
        ("GET", "/healthy", OTHER),
        ("POST", "/v1/chat/completions", "chat"),
        ("POST", "/v1/messages/count_tokens", "chat"),
        ("POST", "/v1/completions", "chat"),
        ("POST", "/v1/completionsx", OTHER),
        ("GET", "/v1/models", COMMON),
        ("GET", "/v1/models/a/b", COMMON),
        ("DELETE", "/v1/models/a", ADMIN),
        ("GET", "/v1/files/f/content", "files"),
        ("GET", "/metrics", ADMIN),
        ("GET", "//metrics", OTHER),
    ],
)
def test_groups(method: str, path: str, group: str) -> None:
    assert group_of(method, path) == group


@pytest.mark.parametrize(
    ("mode", "address", "keys", "needed"),
    [
        ("auto", "127.0.0.1", None, False),
        ("auto", "127.0.0.1", [], False),
        ("auto", "::1", [KEY], True),
        ("auto", "127.0.0.1", [replace(KEY, revoked=NOW)], False),
        ("auto", "0.0.0.0", [KEY], True),
        ("none", "0.0.0.0", None, False),
        ("required", "127.0.0.1", [KEY], True),
    ],
)
def test_when_keys_are_asked_for(mode: str, address: str, keys: list[Key] | None, needed: bool) -> None:
    assert keys_needed(mode, address, None if keys is None else lambda: keys) is needed


@pytest.mark.parametrize(
    ("mode", "address", "keys"),
    [
        ("auto", "0.0.0.0", None),
        ("auto", "::", []),
        ("auto", "10.0.0.1", [replace(KEY, revoked=NOW)]),
        ("required", "127.0.0.1", None),
    ],
)
def test_a_server_that_nobody_could_call_does_not_start(mode: str, address: str, keys: list[Key] | None) -> None:
    with pytest.raises(OptionError) as caught:
        keys_needed(mode, address, None if keys is None else lambda: keys)
    assert "landrace keys create" in (caught.value.hint or "")


def test_every_route_is_in_a_group() -> None:
    """A route that is forgotten in the table would be refused to keys with scopes, or open to those without."""
    serving = Serving(Registry([]), UsageLog(None, name="m", command="", config={}))
    routes = [route for api in application._APIS for route in api.routes(serving).routes]
    paths = [(method, route.path) for route in routes for method in route.methods]  # type: ignore[attr-defined]
    assert paths
    assert not [path for method, path in paths if group_of(method, path) == OTHER]
