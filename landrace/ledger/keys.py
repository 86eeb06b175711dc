"""`Key`: who may call a server, for what and how much; and how a secret is made and kept."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

_SECRET_BYTES = 32
_SECRET_PREFIX = "landrace_"
"""So that a search for secrets that were published by mistake can know them."""


@dataclass(frozen=True)
class Key:
    """A key as an operator knows it; the secret itself is told once and nowhere kept. None: no limit."""

    id: str
    """No secret: what usage is recorded under."""
    name: str
    """No two keys that are not revoked have the same."""
    created: datetime
    team: str = ""
    models: tuple[str, ...] | None = None
    """The models and adapters that it may ask for; None: all."""
    routes: tuple[str, ...] | None = None
    """The routes that it may call; None: all."""
    is_admin: bool = False
    priority: int = 0
    """Calls of a higher one are served first."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    money_per_month: Decimal | None = None
    """In the operator's currency, as `--price-per-hour` is."""
    expires: datetime | None = None
    revoked: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        return self.revoked is None and (self.expires is None or now < self.expires)


@dataclass(frozen=True)
class Spent:
    """What one key has used."""

    requests: int
    tokens: int
    """Of prompts and answers."""
    cost: Decimal


def new_key_id() -> str:
    return f"key_{secrets.token_hex(6)}"


def new_secret() -> str:
    return f"{_SECRET_PREFIX}{secrets.token_urlsafe(_SECRET_BYTES)}"


def digest_of(secret: str) -> str:
    """What is kept of a secret. It has 256 random bits, so a plain hash can neither be guessed nor looked up."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
