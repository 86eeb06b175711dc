"""`--guided`: answers held to the labels of a task or the names of a row's options, and what is told of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reciting_model import THINKING, write_reciting_model
from typer.testing import CliRunner

from landrace.cli.main import app
from landrace.errors import OptionError
from landrace.evaluation.compare import compare
from landrace.evaluation.evaluate import evaluate
from landrace.evaluation.results import load_evaluation
from landrace.evaluation.tables import comparison_table
from landrace.evaluation.task import GUIDED_KINDS, Fields, Task
from landrace.model import open_engine
from landrace.text.guides import Guide

LABELS = Task("intents", "classification", "Which? {q}", labels=("refund", "check in"), max_tokens=24)
OPTIONS = Task("fruit", "option", "{q}\n{choices}", fields=Fields(choices="options"), max_tokens=8)
TALKATIVE = [[":", "<think>", " Hm", "</think>", "It", " depends", "."], ["\n", "It"]]
"""Says nothing that is a label."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("talkative")
    return write_reciting_model(path / "talkative", path / "files", TALKATIVE, THINKING)


def test_each_row_is_asked_with_the_answers_that_it_may_have(fake_engine: Any, fake_tokenizer: Any) -> None:
    engine = fake_engine(lambda prompt: "refund")
    rows = [{"q": "a", "answer": "refund"}]
    found = evaluate(engine, fake_tokenizer(), LABELS, model_name="m", data=LABELS.from_rows(rows), guided=True)
    ((request,),) = engine.batches
    assert request.guide == Guide.of_choices(["refund", "check in"])
    assert found.guided and found.accuracy == 1
    evaluate(engine, fake_tokenizer(), LABELS, model_name="m", data=LABELS.from_rows(rows))
    assert engine.batches[1][0].guide is None
    options = OPTIONS.from_rows([{"q": "Fruit?", "options": {"x": "brick", "y": "pear"}, "answer": "pear"}])
    assert OPTIONS.guide(options.rows[0]) == Guide.of_choices(["x", "y"])
    plain = replace(LABELS, mode="plain", answer_prefix=" ")
    assert plain.guide(plain.from_rows(rows).rows[0]) == Guide.of_choices([" refund", " check in"])


@pytest.mark.parametrize("kind", ["number", "exact", "choice"])
def test_a_kind_without_known_answers_is_refused(kind: Any, fake_engine: Any, fake_tokenizer: Any) -> None:
    task = Task("t", kind, "{q}", labels=("1", "2") if kind == "choice" else ())
    engine = fake_engine(lambda prompt: "1")
    with pytest.raises(OptionError, match=f"kind {kind}") as refused:
        evaluate(engine, fake_tokenizer(), task, model_name="m", data=None, guided=True)
    assert ", ".join(GUIDED_KINDS) in str(refused.value.hint)
    assert not engine.batches


def test_a_model_that_says_anything_else_answers_with_labels(folder: Path) -> None:
    serving = open_engine(str(folder))
    data = LABELS.from_rows([{"q": q, "answer": answer} for q, answer in (("a", "refund"), ("b", "check in"))])
    free, held = (
        evaluate(serving.engine, serving.model.tokenizer, LABELS, model_name=str(guided), data=data, guided=guided)
        for guided in (False, True)
    )
    assert free.unparsed == 2
    assert held.unparsed == held.capped == held.errors == 0
    assert {row.parsed for row in held.rows} <= set(LABELS.labels)
    both = compare([free, held])
    assert any("guidance" in remark for remark in both.remarks)
    assert [row["guided"] for row in comparison_table(both)] == ["-", "yes"]
    assert "guided" not in comparison_table(compare([free]))[0]


def test_the_command_says_and_stores_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "a", "answer": "refund"}\n')
    task = {"name": "t", "kind": "classification", "template": "Which? {q}", "data": "rows.jsonl"}
    (tmp_path / "task.json").write_text(json.dumps({**task, "labels": ["refund", "other"]}))
    (tmp_path / "number.json").write_text(json.dumps({**task, "kind": "exact"}))
    arguments = [str(folder), str(tmp_path / "task.json"), "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(app, ["evaluate", *arguments, "--guided"])
    assert told.exit_code == 0, told.output
    assert "guided" in told.output
    (stored,) = (tmp_path / "out").rglob("*.evaluation.json")
    assert load_evaluation(stored).guided
    refused = CliRunner().invoke(app, ["evaluate", *arguments, str(tmp_path / "number.json"), "--guided"])
    assert refused.exit_code != 0
