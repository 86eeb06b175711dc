"""What goes in comes out, and what must not go in is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landrace.errors import DataError, LedgerUnavailableError
from landrace.ledger import Ledger, Machine, Provenance, Score, Usage, utc_now

MACHINE = Machine(cpu="a cpu", cores=2, memory_bytes=1 << 34, system="Linux", python="3.11.7", torch="2.13.0")
ORIGIN = Provenance("0.1.0", "abc-dirty", MACHINE, "w", "a", "d", "t", 17)

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
counts = st.integers(min_value=0, max_value=2**62)
times = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=4)
maybe = st.none() | texts
origins = st.builds(
    Provenance,
    package_version=texts,
    commit=maybe,
    machine=st.builds(Machine, texts, counts, st.none() | counts, texts, texts, maybe),
    weights_sha256=maybe,
    adapter_sha256=maybe,
    data_sha256=maybe,
    template_sha256=maybe,
    seed=st.none() | st.integers(min_value=-(2**63), max_value=2**63 - 1),
)
bounds = st.tuples(st.none(), st.none()) | st.tuples(numbers, numbers)
slow_is_fine = settings(max_examples=60)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    """What `--ledger` may name: a file, or a database's URL."""
    if request.param == "sqlite":
        return tmp_path / "deep" / "ledger.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def ledger(place: str | Path) -> Iterator[Ledger]:
    with Ledger(place) as opened:
        yield opened


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    prompt = draw(counts)
    return Usage(
        request_id=draw(texts),
        model=draw(texts),
        prompt_tokens=prompt,
        cached_prompt_tokens=draw(st.integers(0, prompt)),
        completion_tokens=draw(counts),
        queue_seconds=draw(positive),
        first_token_seconds=draw(st.none() | positive),
        total_seconds=draw(positive),
        finish_reason=draw(st.sampled_from(["stop", "length", "abort", "error"])),
        adapter=draw(maybe),
        created=draw(times),
        key_id=draw(maybe),
        team=draw(maybe),
        kind=draw(maybe),
        response_id=draw(maybe),
        thought_tokens=draw(counts),
        machine_seconds=draw(positive),
        cost=draw(st.decimals(0, 10**9, places=9)),
    )


def usage(number: int, **changes: Any) -> Usage:
    row = Usage(f"r{number}", "m", 10, 4, 3, 0.5, 1.0, 2.0, "stop")
    return replace(row, **changes)


def score(run_id: int, **changes: Any) -> Score:
    return replace(Score(run_id, "m", "task", "accuracy", 0.5, 10, ORIGIN), **changes)


def test_runs(ledger: Ledger) -> None:
    run = ledger.start_run("tune", "first", command="landrace tune m d", config={"rank": 16, "targets": ["q_proj"]})
    assert (run.status, run.ended) == ("running", None)
    assert ledger.run(run.id) == run
    done = ledger.finish_run(run.id, "failed")
    assert done == replace(run, status="failed", ended=done.ended)
    assert done.ended is not None
    assert done.ended >= done.started
    second = ledger.start_run("evaluate", "second", command="", config={})
    assert [row.id for row in ledger.runs()] == [second.id, run.id]
    assert ledger.runs(kind="tune") == [done]
    assert ledger.runs(name="second") == [second]
    with pytest.raises(DataError, match="no running run"):
        ledger.finish_run(run.id)
    with pytest.raises(DataError, match="no run 99"):
        ledger.run(99)


@slow_is_fine
@given(config=objects, name=texts, command=texts)
def test_any_run_comes_back(ledger: Ledger, config: dict[str, Any], name: str, command: str) -> None:
    run = ledger.start_run("compare", name, command=command, config=config)
    assert ledger.run(run.id) == run
    assert run.config == config


@slow_is_fine
@given(strings=st.tuples(texts, maybe, texts, texts), value=numbers, interval=bounds, n=counts, details=objects,
       origin=origins, created=times)  # fmt: skip
def test_any_score_comes_back(
    ledger: Ledger,
    strings: tuple[str, str | None, str, str],
    value: float,
    interval: tuple[float | None, float | None],
    n: int,
    details: dict[str, Any],
    origin: Provenance,
    created: datetime,
) -> None:
    run_id = ledger.start_run("evaluate", "x", command="", config={}).id
    model, adapter, task, metric = strings
    low, high = interval
    given_score = Score(run_id, model, task, metric, value, n, origin, adapter, low, high, details, created)
    stored = ledger.add_score(given_score)
    assert stored == replace(given_score, id=stored.id)
    assert ledger.scores(run_id=run_id) == [stored]


@slow_is_fine
@given(rows=st.lists(usages(), max_size=8))
def test_any_usage_comes_back(ledger: Ledger, rows: list[Usage]) -> None:
    before = len(ledger.usage())
    assert ledger.add_usage(iter(rows)) == len(rows)
    assert ledger.usage()[before:] == rows


def test_scores_are_found_by_every_field(ledger: Ledger) -> None:
    run_id = ledger.start_run("evaluate", "x", command="", config={}).id
    base = ledger.add_score(score(run_id))
    tuned = ledger.add_score(score(run_id, adapter="a", low=0.4, high=0.6))
    other = ledger.add_score(score(run_id, metric="f1", task="u", model="n"))
    assert ledger.scores() == [base, tuned, other]
    assert ledger.scores(adapter="a") == [tuned]
    assert ledger.scores(metric="accuracy", task="task", model="m", run_id=run_id) == [base, tuned]
    assert ledger.scores(model="n", task="task") == []


@pytest.mark.parametrize(
    "bad",
    [
        {"prompt_tokens": -1},
        {"cached_prompt_tokens": 11},
        {"total_seconds": -0.1},
        {"total_seconds": float("nan")},
        {"machine_seconds": float("nan")},
        {"thought_tokens": -1},
        {"cost": Decimal("-0.01")},
        {"cost": Decimal("NaN")},
        {"queue_seconds": float("inf")},
        {"model": None},
        {"model": "\ud800"},
        {"completion_tokens": 2**63},
        {"run_id": 12345},
        {"created": datetime(2026, 1, 1)},
        {"request_id": object()},
    ],
)
def test_a_bad_row_refuses_its_whole_batch(ledger: Ledger, bad: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        ledger.add_usage([usage(1), usage(2, **bad), usage(3)])
    assert ledger.usage() == []
    assert ledger.add_usage([usage(1)]) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"value": float("nan")},
        {"value": None},
        {"low": 0.1},
        {"high": float("inf"), "low": 0.0},
        {"n": -1},
        {"run_id": 999},
        {"details": {"x": object()}},
        {"details": {"x": float("nan")}},
        {"id": 3},
        {"provenance": replace(ORIGIN, seed=2**64)},
        {"model": "\udcff"},
    ],
)
def test_a_bad_score_is_refused(ledger: Ledger, bad: dict[str, Any]) -> None:
    run_id = ledger.start_run("evaluate", "x", command="", config={}).id
    with pytest.raises((DataError, TypeError)):
        ledger.add_score(score(run_id, **bad))
    assert ledger.scores() == []


def test_a_bad_run_is_refused(ledger: Ledger) -> None:
    with pytest.raises(DataError, match="kind is 'bake'"):
        ledger.start_run("bake", "x", command="", config={})  # type: ignore[arg-type]
    with pytest.raises(DataError, match="JSON"):
        ledger.start_run("tune", "x", command="", config={"x": {1, 2}})
    run = ledger.start_run("tune", "x", command="", config={})
    with pytest.raises(DataError, match="status is 'running'"):
        ledger.finish_run(run.id, "running")
    assert ledger.runs() == [run]


def test_threads_share_one_ledger(ledger: Ledger) -> None:
    run_id = ledger.start_run("serve", "s", command="", config={}).id

    def work(thread: int) -> None:
        for step in range(20):
            ledger.add_usage([usage(thread * 100 + step, run_id=run_id), usage(thread * 100 + 50 + step)])
            ledger.usage(run_id=run_id)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = ledger.usage()
    assert len(rows) == 8 * 20 * 2
    assert len({row.request_id for row in rows}) == len(rows)
    assert len(ledger.usage(run_id=run_id)) == 8 * 20


def test_a_closed_ledger_says_so(ledger: Ledger) -> None:
    ledger.close()
    with pytest.raises(DataError, match="closed"):
        ledger.runs()


def test_rows_survive_reopening(place: str | Path) -> None:
    now = utc_now()
    with Ledger(place) as ledger:
        ledger.add_usage([usage(1, created=now)])
    with Ledger(place) as ledger:
        assert ledger.usage() == [usage(1, created=now)]


def test_a_request_of_a_run_is_stored_once(ledger: Ledger) -> None:
    """However often its batch is sent: a commit whose answer was lost may have happened."""
    first, second = (ledger.start_run("serve", name, command="", config={}).id for name in "ab")
    ledger.add_usage([usage(1, run_id=first), usage(2, run_id=first)])
    assert ledger.add_usage([usage(2, run_id=first), usage(3, run_id=first), usage(1, run_id=second)]) == 3
    assert [(row.run_id, row.request_id) for row in ledger.usage()] == [
        (first, "r1"),
        (first, "r2"),
        (first, "r3"),
        (second, "r1"),
    ]


def test_text_with_a_null_character(tmp_path: Path, postgres_url: str) -> None:
    """SQLite holds it; PostgreSQL cannot, and says so."""
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.add_usage([usage(1, model="a\0b")])
        assert ledger.usage(model="a\0b")
    with Ledger(postgres_url) as ledger, pytest.raises(DataError, match="NUL") as caught:
        ledger.add_usage([usage(1, model="a\0b")])
    assert not isinstance(caught.value, LedgerUnavailableError)


@given(rows=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1000), st.decimals(0, 100, places=9)), max_size=40))
@settings(max_examples=20)
def test_sums_are_exact_however_they_are_grouped(ledger: Ledger, rows: list[tuple[str, float, Decimal]]) -> None:
    run = ledger.start_run("serve", "s", command="", config={}).id
    day = datetime(2026, 1, 1, 23, 59, tzinfo=UTC) + run * timedelta(days=1)
    ledger.add_usage(
        usage(i, run_id=run, key_id=key, machine_seconds=seconds, cost=cost, created=day + timedelta(minutes=i % 2))
        for i, (key, seconds, cost) in enumerate(rows)
    )
    since, until = day, day + timedelta(hours=1)
    for by in ((), ("key",), ("day",), ("key", "day", "model"), ("kind", "team", "adapter")):
        sums = ledger.usage_by(by, since=since, until=until)
        assert sum(one.requests for one in sums) == len(rows)
        assert sum(one.cost for one in sums) == sum(cost for _, _, cost in rows)
        assert abs(sum(one.machine_seconds for one in sums) - sum(Decimal(s) for _, s, _ in rows)) < Decimal("0.0001")
        assert sum(one.prompt_tokens for one in sums) == 10 * len(rows)
        assert all(tuple(one.group) == by for one in sums)
    days = {one.group["day"]: one.requests for one in ledger.usage_by(["day"], since=since, until=until)}
    halves = {day.date().isoformat(): (len(rows) + 1) // 2, until.date().isoformat(): len(rows) // 2}
    assert days == {name: count for name, count in halves.items() if count}


def test_a_sum_over_nothing_known_is_refused(ledger: Ledger) -> None:
    with pytest.raises(DataError, match="by is 'colour'"):
        ledger.usage_by(["colour"])
    assert [one.requests for one in ledger.usage_by()] == [0]
    assert ledger.usage_by(["model"]) == []


def test_records_are_json_ready() -> None:
    assert json.loads(json.dumps(asdict(ORIGIN)))["machine"]["cpu"] == "a cpu"


def test_importing_the_ledger_is_light() -> None:
    script = (
        "import sys; import landrace.ledger; "
        "print([m for m in ('torch', 'numpy', 'pydantic', 'sqlalchemy') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
