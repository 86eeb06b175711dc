"""What the ledger tells: usage, keys and feedback. Each of these waits for the disk: they are for threads."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from landrace.ledger import Ledger
from landrace.ledger.records import utc_now

_LATEST_FEEDBACK = 50


def usage_table(ledger: Ledger, by: Sequence[str], days: int) -> dict[str, Any]:
    """The sums of the last days, as `schema.UsageTable`; the dearest group first, then the busiest."""
    sums = ledger.usage_by(by, since=utc_now() - timedelta(days=days))
    names = {key.id: key.name for key in ledger.keys()} if "key" in by else {}  # noqa: SIM118  no mapping
    rows = [
        {
            "group": dict(one.group),
            "key_name": names.get(one.group.get("key") or ""),
            "requests": one.requests,
            "prompt_tokens": one.prompt_tokens,
            "cached_prompt_tokens": one.cached_prompt_tokens,
            "completion_tokens": one.completion_tokens,
            "thought_tokens": one.thought_tokens,
            "seconds": float(one.seconds),
            "machine_seconds": float(one.machine_seconds),
            "cost": float(one.cost),
        }
        for one in sorted(sums, key=lambda one: (one.cost, one.requests), reverse=True)
    ]
    return {"object": "list", "by": list(by), "days": days, "data": rows}


def key_table(ledger: Ledger) -> dict[str, Any]:
    """Every key with what it has used since the month began (UTC), as `schema.KeyTable`."""
    now = utc_now()
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    used = {one.group["key"]: one for one in ledger.usage_by(["key"], since=month)}
    rows = []
    for key in list(ledger.keys()):
        mine = used.get(key.id)
        rows.append(
            {
                "id": key.id,
                "name": key.name,
                "team": key.team,
                "models": None if key.models is None else list(key.models),
                "routes": None if key.routes is None else list(key.routes),
                "is_admin": key.is_admin,
                "priority": key.priority,
                "requests_per_minute": key.requests_per_minute,
                "tokens_per_minute": key.tokens_per_minute,
                "money_per_month": None if key.money_per_month is None else float(key.money_per_month),
                "created": key.created.isoformat(),
                "expires": _moment(key.expires),
                "revoked": _moment(key.revoked),
                "is_valid": key.is_valid(now),
                "requests_this_month": 0 if mine is None else mine.requests,
                "tokens_this_month": 0 if mine is None else mine.prompt_tokens + mine.completion_tokens,
                "spent_this_month": 0.0 if mine is None else float(mine.cost),
            }
        )
    return {"object": "list", "data": rows}


def feedback_table(ledger: Ledger, *, with_texts: bool) -> dict[str, Any]:
    """What was said last, as `schema.FeedbackTable`."""
    rows = [
        {
            "response_id": one.response_id,
            "choice": one.choice,
            "rating": one.rating,
            "has_correction": one.correction is not None,
            "has_comment": one.comment is not None,
            "correction": one.correction if with_texts else None,
            "comment": one.comment if with_texts else None,
            "key_id": one.key_id,
            "team": one.team,
            "created": one.created.isoformat(),
        }
        for one in ledger.exchanges.latest_feedback(_LATEST_FEEDBACK)
    ]
    return {"object": "list", "data": rows}


def _moment(when: datetime | None) -> str | None:
    return None if when is None else when.isoformat()
