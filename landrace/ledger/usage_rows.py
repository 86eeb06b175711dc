"""Usage as rows, and the sums over them, which are exact: of whole tokens, microseconds and billionths of money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Insert, Select, cast, func, select
from sqlalchemy.dialects import postgresql, sqlite

from landrace.ledger.keys import Spent
from landrace.ledger.money import billionths_as_money, money_as_billionths
from landrace.ledger.records import Usage, UsageSum
from landrace.ledger.tables import USAGE
from landrace.ledger.values import check_finite, stamp

_PLAIN_FIELDS = tuple(field.name for field in fields(Usage) if field.name not in ("cost", "created"))
_SECONDS = ("queue_seconds", "first_token_seconds", "total_seconds", "machine_seconds")
_MICROSECONDS = 1_000_000
_DAY_LENGTH = len("2026-01-01")
_GROUPS: dict[str, ColumnElement[Any]] = {
    "key": USAGE.c.key_id,
    "model": USAGE.c.model,
    "adapter": USAGE.c.adapter,
    "day": func.substr(USAGE.c.created, 1, _DAY_LENGTH),
    "team": USAGE.c.team,
    "kind": USAGE.c.kind,
}
GROUPS = tuple(_GROUPS)
"""What usage can be summed by. A day is one of UTC."""


def row_of_usage(usage: Usage) -> dict[str, object]:
    for name in _SECONDS:
        check_finite(name, getattr(usage, name))
    return {
        **{name: getattr(usage, name) for name in _PLAIN_FIELDS},
        "cost": money_as_billionths(usage.cost),
        "created": stamp(usage.created),
    }


def usage_of_row(row: Any) -> Usage:
    return Usage(
        **{name: getattr(row, name) for name in _PLAIN_FIELDS},
        cost=billionths_as_money(row.cost),
        created=datetime.fromisoformat(row.created),
    )


def insertion(dialect: str) -> Insert:
    """Leaves a row that is there already as it is: one request of one run is stored once, however often it is sent."""
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert(USAGE).on_conflict_do_nothing(index_elements=["run_id", "request_id"])


def spending(key_id: str, since: datetime) -> Select[Any]:
    tokens = USAGE.c.prompt_tokens + USAGE.c.completion_tokens
    sums = select(func.count(), _total(tokens), _total(USAGE.c.cost))
    return sums.where(USAGE.c.key_id == key_id, USAGE.c.created >= stamp(since))


def spent_of_row(row: Any) -> Spent:
    requests, tokens, cost = row
    return Spent(requests, int(tokens), billionths_as_money(int(cost)))


def summing(by: Sequence[str], since: datetime | None, until: datetime | None) -> Select[Any]:
    groups = [_GROUPS[name].label(f"by_{name}") for name in by]
    sums = select(
        *groups,
        func.count(),
        *(_total(USAGE.c[f"{kind}_tokens"]) for kind in ("prompt", "cached_prompt", "completion", "thought")),
        *(_total(_microseconds(USAGE.c[name])) for name in ("total_seconds", "machine_seconds")),
        _total(USAGE.c.cost),
    )
    if since is not None:
        sums = sums.where(USAGE.c.created >= stamp(since))
    if until is not None:
        sums = sums.where(USAGE.c.created < stamp(until))
    return sums.group_by(*groups) if groups else sums


def sum_of_row(row: Any, by: Sequence[str]) -> UsageSum:
    requests, prompt, cached, completion, thought, total, machine, cost = (int(value) for value in row[len(by) :])
    seconds, machine_seconds = (Decimal(count).scaleb(-6) for count in (total, machine))
    group = dict(zip(by, row[: len(by)], strict=True))
    return UsageSum(
        group, requests, prompt, cached, completion, thought, seconds, machine_seconds, billionths_as_money(cost)
    )


def _total(values: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.coalesce(func.sum(values), 0)


def _microseconds(seconds: ColumnElement[Any]) -> ColumnElement[int]:
    return cast(func.round(seconds * _MICROSECONDS), BigInteger)
