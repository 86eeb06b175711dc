"""`landrace usage`: sums that are exact in every format, for the time that was asked for."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from landrace.cli.main import app
from landrace.errors import LandraceError
from landrace.ledger import Ledger, Usage

START = datetime(2026, 1, 30, 12, tzinfo=UTC)
COST = Decimal("0.000000007")
Report = Callable[..., str]


@pytest.fixture
def report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Report:
    """Runs the verb on 40 requests, 12 hours apart; every fourth has no key, the others are ann's."""
    path = tmp_path / "l.db"
    with Ledger(path) as ledger:
        key, _ = ledger.create_key("ann", team="search")
        run = ledger.start_run("serve", "m", command="", config={}).id
        ledger.add_usage(
            Usage(
                f"r{i}",
                "small" if i % 2 else "large",
                *(10, 4, 3),
                *(0.0, None, 0.1, "stop"),
                run_id=run,
                created=START + i * timedelta(hours=12),
                key_id=key.id if i % 4 else None,
                team=key.team if i % 4 else None,
                kind="chat",
                thought_tokens=1,
                machine_seconds=0.1,
                cost=COST * i,
            )
            for i in range(40)
        )

    def run_it(*arguments: str) -> str:
        app(["usage", "--ledger", str(path), *arguments], standalone_mode=False)
        return capsys.readouterr().out

    return run_it


def test_every_digit_is_there(report: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(report("--by", "key,model", "--format", "csv"))))
    assert [(row["key_name"], row["model"], row["requests"]) for row in rows] == [
        ("", "large", "10"),
        ("ann", "large", "10"),
        ("ann", "small", "20"),
    ]
    assert sum(Decimal(row["cost"]) for row in rows) == COST * sum(range(40))
    assert [row["machine_seconds"] for row in rows] == ["1.000000", "1.000000", "2.000000"]


def test_json_is_for_programs(report: Report) -> None:
    (row,) = json.loads(report("--by", "team", "--since", "2026-01-30T13:00+01:00", "--format", "json"))[1:]
    assert (row["team"], row["requests"], row["prompt_tokens"], row["thought_tokens"]) == ("search", 30, 300, 30)
    assert row["seconds"] == 3.0


def test_a_day_is_one_of_utc_and_until_has_it_whole(report: Report) -> None:
    answer = report("--by", "day", "--since", "2026-01-31", "--until", "2026-02-01", "--format", "csv")
    days = [row["day"] + " " + row["requests"] for row in csv.DictReader(io.StringIO(answer))]
    assert days == ["2026-01-31 2", "2026-02-01 2"]
    assert "2026-02-01" not in report("--by", "day", "--until", "2026-02-01T00:00")


def test_the_table_ends_in_a_sum(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    table = report("--by", "key,day")
    assert "day (UTC)" in table
    assert "ann" in table
    last = table.splitlines()[-1].split()
    assert last == ["all", "40", "400", "160", "120", "40", "4.00", "4.00", "0.000005"]


def test_nothing_is_no_error(report: Report) -> None:
    assert report("--until", "3w", "--since", "4w") == ""


@pytest.mark.parametrize(
    "wrong", [["--by", "colour"], ["--format", "xml"], ["--since", "soon"], ["--until", "999999w"], ["--by", ""]]
)
def test_what_cannot_be_is_refused(report: Report, wrong: list[str]) -> None:
    with pytest.raises(LandraceError):
        report(*wrong)
