"""Lets calls with a key in, to the routes that the key is for, within its limits."""

from __future__ import annotations

from datetime import timedelta

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from landrace.ledger.keys import Key
from landrace.ledger.money import cost_of
from landrace.ledger.records import utc_now
from landrace.server.access import route_groups
from landrace.server.access.caller import Caller, note_caller
from landrace.server.access.keys import KeyDesk, unauthorized
from landrace.server.access.limits import Allowance
from landrace.server.access.tally import Tally, note_tally
from landrace.server.http.errors import ApiError, refuse


class Gate:
    """ASGI middleware. What it refuses gets 401 (no key that counts), 403 (not for this key), 429 (not now) or 503
    (keys cannot be checked)."""

    def __init__(self, app: ASGIApp, desk: KeyDesk, price_per_hour: float) -> None:
        """`price_per_hour`: of the machine; what calls cost that are not in the ledger yet."""
        self._app = app
        self._desk = desk
        self._price = price_per_hour
        self._allowances: dict[str, Allowance] = {}
        self._running: dict[str, set[Tally]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        group = route_groups.group_of(scope["method"], scope["path"])
        if group == route_groups.OPEN:
            await self._app(scope, receive, send)
            return
        try:
            key = await self._desk.find(_secret(Headers(scope=scope)))
            _check_group(key, group)
            if key.money_per_month is not None:
                await self._check_money(key)
            allowance = self._allowance(key)
            allowance.take_request()
        except ApiError as error:
            await refuse(error, scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in allowance.headers().items():
                    headers[name] = value
            await send(message)

        http = HTTPConnection(scope)
        tally = Tally(allowance)
        note_caller(http, _caller(key))
        note_tally(http, tally)
        running = self._running.setdefault(key.id, set())
        running.add(tally)
        try:
            await self._app(scope, receive, told)
        finally:
            running.discard(tally)
            tally.settle()

    def _allowance(self, key: Key) -> Allowance:
        found = self._allowances.setdefault(key.id, Allowance())
        found.set_limits(key.requests_per_minute, key.tokens_per_minute)
        return found

    async def _check_money(self, key: Key) -> None:
        seconds = sum(tally.counts.machine_seconds for tally in self._running.get(key.id, ()))
        spent = (await self._desk.spent_this_month(key)).cost + cost_of(seconds, self._price)
        if key.money_per_month is not None and spent >= key.money_per_month:
            now = utc_now()
            next_month = (now.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0)
            raise ApiError(
                429,
                f"This key has spent {spent:.2f} of {key.money_per_month} a month.",
                code="insufficient_quota",
                headers={"Retry-After": str(int((next_month - now).total_seconds()) + 1)},
            )


def _secret(headers: Headers) -> str:
    """As OpenAI's clients send it, or as Anthropic's do. Raises ApiError (401)."""
    given = headers.get("authorization")
    if given is None:
        secret = headers.get("x-api-key", "")
    else:
        scheme, _, secret = given.partition(" ")
        if scheme.lower() != "bearer":
            secret = ""
    if not secret.strip():
        raise unauthorized("A key is needed, in the header Authorization: Bearer KEY or x-api-key.", "missing_api_key")
    return secret.strip()


def _check_group(key: Key, group: str) -> None:
    """Raises ApiError (403)."""
    if group == route_groups.ADMIN:
        if not key.is_admin:
            raise ApiError(403, "This route is for the keys of administrators.", code="admin_only")
    elif group != route_groups.COMMON and key.routes is not None and group not in key.routes:
        theirs = ", ".join(key.routes) or "none"
        raise ApiError(403, f"This key is not for this route. It is for: {theirs}.", code="route_not_allowed")


def _caller(key: Key) -> Caller:
    models = None if key.models is None else frozenset(key.models)
    return Caller(key.id, key.name, key.team, models, key.is_admin, key.priority)
