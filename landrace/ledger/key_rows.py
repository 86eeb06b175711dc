"""Keys as rows, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from landrace.errors import DataError
from landrace.ledger.keys import Key
from landrace.ledger.money import billionths_as_money, money_as_billionths
from landrace.ledger.values import moment_or_none, stamp, stamp_or_none

_PLAIN_FIELDS = ("id", "name", "team", "priority", "requests_per_minute", "tokens_per_minute")


def row_of_key(key: Key, digest: str) -> dict[str, object]:
    """Raises DataError for a name or a limit that means nothing."""
    if not key.name.strip() or not key.name.isprintable():
        raise DataError(f"A key needs a name that can be read, not {key.name!r}.")
    for limit in ("requests_per_minute", "tokens_per_minute"):
        value = getattr(key, limit)
        if value is not None and value < 1:
            raise DataError(f"{limit} is {value}; it must be 1 or more.", hint="Leave it out for no limit.")
    return {
        **{name: getattr(key, name) for name in _PLAIN_FIELDS},
        "secret_sha256": digest,
        "models": _list_text(key.models),
        "routes": _list_text(key.routes),
        "is_admin": int(key.is_admin),
        "money_per_month": None if key.money_per_month is None else money_as_billionths(key.money_per_month),
        "created": stamp(key.created),
        "expires": stamp_or_none(key.expires),
        "revoked": stamp_or_none(key.revoked),
    }


def key_of_row(row: Any) -> Key:
    return Key(
        **{name: getattr(row, name) for name in _PLAIN_FIELDS},
        models=_list_of(row.models),
        routes=_list_of(row.routes),
        is_admin=bool(row.is_admin),
        money_per_month=None if row.money_per_month is None else billionths_as_money(row.money_per_month),
        created=datetime.fromisoformat(row.created),
        expires=moment_or_none(row.expires),
        revoked=moment_or_none(row.revoked),
    )


def _list_text(names: Sequence[str] | None) -> str | None:
    return None if names is None else json.dumps(list(names))


def _list_of(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(json.loads(text))
