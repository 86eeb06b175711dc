"""The comparison: its arithmetic, what it refuses, and that its sentences say what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from landrace.errors import OptionError
from landrace.evaluation.baseline import BASELINE_NAME, evaluate_baseline
from landrace.evaluation.compare import compare, cost_per_1000_correct
from landrace.evaluation.statistics import mcnemar, paired_difference
from landrace.evaluation.tables import comparison_table, seconds, to_markdown, to_text
from landrace.evaluation.task import Fields, Task
from landrace.evaluation.verdict import money, p_value, verdict

EXPECTED = ["refund", "check_in"] * 50


def right_on(evaluation_of: Any, name: str, count: int, *, start: int = 0, **values: Any) -> Any:
    """An evaluation of 100 rows that has `count` right from row `start` on; the others are unparsed."""
    chosen = range(start, start + count)
    answers = [truth if index in chosen else None for index, truth in enumerate(EXPECTED)]
    return evaluation_of(name, answers, EXPECTED, **values)


def test_the_numbers_of_a_comparison(evaluation_of: Any) -> None:
    base, tuned = right_on(evaluation_of, "base", 40), right_on(evaluation_of, "tuned", 80)
    found = compare([base, tuned], price_per_hour=2.0)
    first, second = found.entries
    outcomes = [[row.correct for row in item.rows] for item in (base, tuned)]
    assert first.against_first is None
    assert second.against_first is not None
    assert second.against_first.difference == paired_difference(*outcomes)
    assert second.against_first.test == mcnemar(*outcomes)
    assert (first.accuracy, second.accuracy, second.unparsed) == (0.4, 0.8, 20)
    # 36 s at 2.00 an hour cost 0.02; for 80 right answers, so 0.25 for 1,000 of them.
    assert second.cost_per_1000_correct == pytest.approx(0.25)
    assert first.cost_per_1000_correct == pytest.approx(0.5)
    assert second.tokens_per_second == pytest.approx(100 * 43 / 36)
    assert json.loads(json.dumps(found.to_dict()))["entries"][1]["correct"] == 80


def test_no_right_answer_has_no_price(evaluation_of: Any) -> None:
    nothing = right_on(evaluation_of, "base", 0)
    assert cost_per_1000_correct(nothing, 1.0) is None
    assert "0 of 100" in verdict(compare([nothing]))
    assert to_text(comparison_table(compare([nothing])))


def test_a_pair_reads_both_ways(evaluation_of: Any) -> None:
    found = compare([right_on(evaluation_of, "a", 40), right_on(evaluation_of, "b", 70, start=20)])
    there, back = found.pair("a", "b"), found.pair("b", "a")
    assert there.difference.value == -back.difference.value == pytest.approx(0.3)
    assert there.difference.interval.low == -back.difference.interval.high
    assert (there.test.only_first, there.test.only_second) == (back.test.only_second, back.test.only_first) == (20, 50)
    with pytest.raises(OptionError, match="no pair"):
        found.pair("a", "c")


def test_different_rows_are_refused(evaluation_of: Any) -> None:
    base = right_on(evaluation_of, "base", 40)
    tuned = right_on(evaluation_of, "tuned", 50)
    swapped = replace(tuned, rows=(tuned.rows[1], tuned.rows[0], *tuned.rows[2:]))
    relabelled = replace(tuned, rows=(replace(tuned.rows[0], expected="other"), *tuned.rows[1:]))
    for other, words in (
        (replace(tuned, data_sha256="e"), "different data"),
        (replace(tuned, rows=tuned.rows[:-1]), "different rows"),
        (swapped, "different rows"),
        (relabelled, "different rows"),
        (base, "same model name"),
    ):
        with pytest.raises(OptionError, match=words):
            compare([base, other])
    for price in (-1.0, float("nan"), float("inf")):
        with pytest.raises(OptionError, match="price_per_hour"):
            compare([base], price_per_hour=price)
    with pytest.raises(OptionError, match="at least one"):
        compare([])


def test_what_else_differs_is_said(evaluation_of: Any) -> None:
    base = right_on(evaluation_of, "base", 40, data_rows=300)
    other = right_on(evaluation_of, "tuned", 50, template_sha256="q", sampling={"temperature": 1.0}, data_rows=300)
    cached = replace(other, rows=tuple(replace(row, cached_prompt_tokens=10) for row in other.rows))
    remarks = " ".join(compare([base, cached]).remarks)
    assert "100 of the 300 rows" in remarks
    assert "same prompt." in remarks
    assert "same sampling" in remarks
    assert "25% of the prompt tokens" in remarks
    assert compare([right_on(evaluation_of, "a", 1), right_on(evaluation_of, "b", 2)]).remarks == ()


def test_a_gain_is_told_with_its_evidence(evaluation_of: Any) -> None:
    text = verdict(compare([right_on(evaluation_of, "base", 40), right_on(evaluation_of, "tuned", 80)]))
    assert "tuned is right on 40 more of 100 rows than base: 80.0% against 40.0%" in text
    assert "p < 0.0001" in text
    assert "chance" not in text


def test_a_small_gain_is_not_called_one(evaluation_of: Any) -> None:
    text = verdict(compare([right_on(evaluation_of, "base", 40), right_on(evaluation_of, "tuned", 42)]))
    assert "2 more of 100" in text
    assert "may be chance" in text
    assert "p = 0.50" in text


def test_a_loss_and_a_draw_are_told(evaluation_of: Any) -> None:
    base = right_on(evaluation_of, "base", 80)
    assert "40 fewer of 100" in verdict(compare([base, right_on(evaluation_of, "tuned", 40)]))
    assert "as many of the 100 rows" in verdict(compare([base, right_on(evaluation_of, "tuned", 80, start=10)]))


def test_the_baseline_may_win_tie_or_lose(evaluation_of: Any) -> None:
    base, tuned = right_on(evaluation_of, "base", 20), right_on(evaluation_of, "tuned", 60)

    def with_baseline(count: int) -> str:
        baseline = right_on(evaluation_of, "TF-IDF", count, method="classical", wall_seconds=0.036)
        return verdict(compare([base, tuned, baseline]))

    won, tied, lost = with_baseline(90), with_baseline(62), with_baseline(30)
    assert "TF-IDF, is better than tuned, right on 30 more rows: 90.0% against 60.0%" in won
    assert "do not need a language model" in won
    assert "answers 1,000 times faster" in won
    assert "cannot be told apart from tuned" in tied
    assert "is right on 30 fewer rows than tuned" in lost
    assert "do not need" not in tied + lost


def test_a_baseline_alone_and_a_baseline_first(evaluation_of: Any) -> None:
    baseline = right_on(evaluation_of, "TF-IDF", 50, method="classical")
    assert "50 of 100 rows" in verdict(compare([baseline]))
    text = verdict(compare([baseline, right_on(evaluation_of, "tuned", 60)]))
    assert text.count("TF-IDF") == 1
    assert "tuned is right on 60 of 100 rows" in text


def test_tables_as_text_and_markdown(evaluation_of: Any) -> None:
    tuned = right_on(evaluation_of, "<b>tuned", 80, training_seconds=90.0)
    found = compare([right_on(evaluation_of, "基线|x", 40), tuned])
    table = comparison_table(found)
    assert [row["right"] for row in table] == ["40 of 100", "80 of 100"]
    assert table[1]["training"] == "90 s"
    assert "raw likelihood" not in table[0]
    lines = to_text(table).splitlines()
    assert len(lines) == len(table[0]) + 1
    assert lines[0].split() == ["system", "基线|x", "<b>tuned"]
    # The names hold two wide characters and none: lined up, the second column starts two characters earlier.
    assert lines[0].index("<b>tuned") == lines[2].index("80 of 100") - 2
    markdown = to_markdown(table).splitlines()
    assert markdown[0] == "| system | 基线\\|x | &lt;b&gt;tuned |"
    assert markdown[1] == "| --- | --- | --- |"
    assert markdown[2] == "| right | 40 of 100 | 80 of 100 |"


def test_how_numbers_are_written() -> None:
    assert [seconds(value) for value in (None, 2e-5, 0.0123, 3.5, 119.0, 600.0)] == [
        "-",
        "20 µs",
        "12.3 ms",
        "3.5 s",
        "119 s",
        "10.0 min",
    ]
    assert [p_value(value) for value in (0.0, 0.00005, 0.0001, 0.0042, 0.05, 1.0)] == [
        "< 0.0001",
        "< 0.0001",
        "0.0001",
        "0.0042",
        "0.05",
        "1.00",
    ]
    assert money(2.9e-6) == "< 0.0001"
    assert [money(value) for value in (None, 0.0, 0.00123, 1234.5)] == ["-", "0.00", "0.0012", "1,234.50"]


def baseline_task() -> Task:
    return Task("t", "classification", "Which? {text}", labels=("refund", "check_in"), fields=Fields(answer="intent"))


TRAIN = [
    {"text": "I want my money back", "intent": "refund"},
    {"text": "请把钱退给我", "intent": "refund"},
    {"text": "vratite mi novac", "intent": "refund"},
    {"text": "when can I get the key", "intent": "check_in"},
    {"text": "几点可以入住", "intent": "check_in"},
    {"text": "kada mogu da preuzmem ključ", "intent": "check_in"},
]


def test_the_baseline_learns_in_every_script_and_repeats() -> None:
    pytest.importorskip("sklearn")
    task = baseline_task()
    held_out = [
        {"text": "money, back, now", "intent": "refund"},
        {"text": "要退钱", "intent": "refund"},
        {"text": "可以入住吗", "intent": "check_in"},
        {"text": "gde je ključ", "intent": "check_in"},
    ]
    train, data = task.from_rows(TRAIN), task.from_rows(held_out)
    first, second = (evaluate_baseline(task, train, data=data) for _ in range(2))
    assert [row.correct for row in first.rows] == [True] * 4
    assert first.rows == second.rows
    assert (first.model, first.method, first.macro_f1) == (BASELINE_NAME, "classical", 1.0)
    assert first.training_seconds is not None
    assert first.tokens_per_second is None
    assert first.training_data_sha256 == train.sha256
    assert "scikit-learn" in first.provenance


def test_the_baseline_refuses_what_it_cannot_do() -> None:
    task = baseline_task()
    with pytest.raises(OptionError, match="two labels"):
        evaluate_baseline(task, task.from_rows(TRAIN[:2]), data=task.from_rows(TRAIN))
    exact = Task("t", "exact", "{text}", fields=Fields(answer="intent"))
    with pytest.raises(OptionError, match="kind 'exact'"):
        evaluate_baseline(exact, exact.from_rows(TRAIN), data=exact.from_rows(TRAIN))


def test_a_missing_scikit_learn_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from landrace.errors import UnsupportedError

    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    task = baseline_task()
    with pytest.raises(UnsupportedError) as caught:
        evaluate_baseline(task, task.from_rows(TRAIN), data=task.from_rows(TRAIN))
    assert "pip install scikit-learn" in (caught.value.hint or "")
