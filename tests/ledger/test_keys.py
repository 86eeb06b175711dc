"""Keys: made once, known by their secret alone, changed, ended; and what they have spent."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from landrace.errors import DataError
from landrace.ledger import Ledger, Spent, Usage, utc_now


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    on_sqlite = request.param == "sqlite"
    with Ledger(tmp_path / "l.db" if on_sqlite else request.getfixturevalue("postgres_url")) as opened:
        yield opened


def test_a_key_comes_back_by_its_secret(ledger: Ledger) -> None:
    plain, secret = ledger.create_key("ann")
    scoped, other = ledger.create_key(
        "nightly",
        team="search",
        models=["smollm2", "support"],
        routes=[],
        is_admin=True,
        priority=-2,
        requests_per_minute=60,
        tokens_per_minute=10_000,
        money_per_month=Decimal("12.50"),
        expires=utc_now() + timedelta(days=90),
    )
    assert ledger.keys() == [plain, scoped]
    assert (ledger.key_of(secret), ledger.key_of(other)) == (plain, scoped)
    assert (plain.models, plain.routes, plain.money_per_month, plain.team) == (None, None, None, "")
    assert (scoped.models, scoped.routes, scoped.money_per_month) == (("smollm2", "support"), (), Decimal("12.5"))
    assert len({plain.id, scoped.id, secret, other}) == 4


@pytest.mark.parametrize("wrong", ["", "landrace_", "x" * 10_000, "\0", "\ud800", "' OR 1=1 --"])
def test_another_secret_is_nobodys(ledger: Ledger, wrong: str) -> None:
    _, secret = ledger.create_key("ann")
    assert ledger.key_of(wrong) is None
    assert ledger.key_of(secret + wrong) == (ledger.keys()[0] if wrong == "" else None)
    assert ledger.key_of(secret.swapcase()) is None


def test_a_rotated_key_has_a_new_secret_only(ledger: Ledger) -> None:
    key, old = ledger.create_key("ann", team="t")
    rotated, new = ledger.rotate_key(key.id)
    assert rotated == key
    assert (ledger.key_of(old), ledger.key_of(new)) == (None, key)


def test_a_revoked_key_stays_on_the_list(ledger: Ledger) -> None:
    key, secret = ledger.create_key("ann")
    revoked = ledger.revoke_key(key.id)
    assert revoked.revoked is not None
    assert ledger.keys() == [replace(key, revoked=revoked.revoked)]
    assert ledger.key_of(secret) is None
    for change in (ledger.revoke_key, ledger.rotate_key):
        with pytest.raises(DataError, match="no key"):
            change(key.id)
    again, _ = ledger.create_key("ann")
    assert again.id != key.id


def test_an_expired_key_is_nobodys(ledger: Ledger) -> None:
    _, secret = ledger.create_key("ann", expires=utc_now() - timedelta(seconds=1))
    assert ledger.key_of(secret) is None


def test_two_keys_have_two_names(ledger: Ledger) -> None:
    ledger.create_key("ann")
    with pytest.raises(DataError, match="already") as caught:
        ledger.create_key("ann")
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    "bad",
    [
        {"name": ""},
        {"name": " "},
        {"name": "a\nb"},
        {"requests_per_minute": 0},
        {"tokens_per_minute": -5},
        {"money_per_month": Decimal(-1)},
        {"money_per_month": Decimal("NaN")},
    ],
)
def test_a_key_that_means_nothing_is_refused(ledger: Ledger, bad: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        ledger.create_key(**{"name": "ann", **bad})
    assert ledger.keys() == []


def test_the_secret_is_nowhere_in_the_file(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db") as ledger:
        _, secret = ledger.create_key("ann")
        _, rotated = ledger.rotate_key(ledger.keys()[0].id)
    held = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"ann" in held
    for told in (secret, rotated):
        assert told.partition("_")[2].encode() not in held


def test_what_a_key_has_spent(ledger: Ledger) -> None:
    now = utc_now()
    row = Usage("r", "m", 10, 4, 3, 0.0, None, 1.0, "stop", key_id="k", cost=Decimal("0.000000001"))
    ages = [timedelta(0), timedelta(hours=1), timedelta(days=40)]
    ledger.add_usage(replace(row, request_id=f"r{i}", created=now - age) for i, age in enumerate(ages))
    ledger.add_usage([replace(row, key_id="other"), replace(row, key_id=None)])
    assert ledger.spent("k", now - timedelta(days=30)) == Spent(2, 26, Decimal("0.000000002"))
    assert ledger.spent("k", now) == Spent(1, 13, Decimal("0.000000001"))
    assert ledger.spent("nobody", now - timedelta(days=30)) == Spent(0, 0, Decimal(0))


def test_spending_is_answered_from_the_index(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db"):
        pass
    with sqlite3.connect(tmp_path / "l.db") as raw:
        query = "SELECT count(*), sum(prompt_tokens + completion_tokens), sum(cost) FROM usage"
        (plan,) = raw.execute(f"EXPLAIN QUERY PLAN {query} WHERE key_id = 'k' AND created >= '2026'")
    raw.close()
    assert "COVERING INDEX usage_by_key" in plan[3]
