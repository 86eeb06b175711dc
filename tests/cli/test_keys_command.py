"""`landrace keys`: the secret on stdout and nowhere else, and what cannot be is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from landrace.cli.main import app
from landrace.errors import LandraceError
from landrace.ledger import Ledger


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Runs the verb on a ledger that the environment names; gives stdout and stderr."""
    monkeypatch.setenv("LANDRACE_LEDGER", str(tmp_path / "l.db"))

    def run(*arguments: str) -> tuple[str, str]:
        app(["keys", *arguments], standalone_mode=False)
        return capsys.readouterr()

    return run


def test_a_key_from_its_making_to_its_end(keys, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    limits = ["--requests-per-minute", "5", "--tokens-per-minute", "600", "--money-per-month", "12.50"]
    secret, told = keys("create", "ann", "--team", "search", "--models", "a, b", *limits, "--expires", "90d")
    assert "not shown again" in told
    assert secret.strip() not in told
    with Ledger(tmp_path / "l.db") as ledger:
        key = ledger.key_of(secret.strip())
    assert key is not None
    assert (key.name, key.team, key.models, key.requests_per_minute) == ("ann", "search", ("a", "b"), 5)
    assert key.expires is not None
    assert (key.expires - key.created).days in (89, 90)

    rotated = json.loads(keys("rotate", "ann", "--json")[0])
    with Ledger(tmp_path / "l.db") as ledger:
        assert ledger.key_of(secret.strip()) is None
        assert ledger.key_of(rotated["secret"]) == key
    (listed,) = json.loads(keys("list", "--json")[0])
    assert listed == {name: value for name, value in rotated.items() if name != "secret"}
    assert (listed["money_per_month"], listed["models"]) == (12.5, ["a", "b"])
    table = keys("list")[0]
    assert all(text in table for text in ("ann", key.id, "search"))
    assert secret.strip() not in table

    keys("revoke", key.id)
    assert "no keys" in keys("list")[1]
    assert "revoked" in keys("list", "--all")[0]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["create", "x", "--expires", "2020-01-01"], "past"),
        (["create", "x", "--expires", "soon"], "cannot read"),
        (["create", "x", "--models", "a,,b"], "commas"),
        (["create", "x", "--money-per-month", "much"], "number"),
        (["create", "x", "--money-per-month", "-1"], "0 or more"),
        (["rotate", "nobody"], "no key"),
    ],
)
def test_what_cannot_be_is_refused(keys, arguments: list[str], complaint: str) -> None:  # type: ignore[no-untyped-def]
    keys("create", "ann")
    with pytest.raises(LandraceError, match=complaint):
        keys(*arguments)


def test_a_mistyped_ledger_is_not_made(keys, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LandraceError, match="no ledger"):
        keys("list")
    assert list(tmp_path.iterdir()) == []
