"""The command line: names are data and no paths, and a path may hold a plus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from landrace.cli.main import app
from landrace.cli.systems import parse_system
from landrace.errors import OptionError

ROWS = [{"text": f"money back {index}", "answer": "refund"} for index in range(4)] + [
    {"text": f"the key {index}", "answer": "key"} for index in range(4)
]


def task_file(folder: Path, file: str, name: str) -> Path:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    task = {"name": name, "kind": "classification", "template": "{text}", "labels": ["refund", "key"]}
    path = folder / file
    path.write_text(json.dumps({**task, "data": "rows.jsonl", "train": "rows.jsonl"}), encoding="utf-8")
    return path


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(item) for item in arguments])


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a\0b", "..", "CON", "n" * 3000])
def test_a_task_writes_inside_of_its_folder_whatever_its_name(name: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    task = task_file(tmp_path, "task.json", name)
    out = tmp_path / "runs" / "deep" / "out"
    assert run("evaluate", "baseline", task, "--out", out).exit_code == 0
    stored = list(tmp_path.rglob("*.evaluation.json"))
    assert [path.parent.parent for path in stored] == [out]


@pytest.mark.parametrize("names", [("a", "a"), ("Case", "case"), ("a/b", "a b")])
def test_tasks_that_would_overwrite_one_another_are_refused(names: tuple[str, str], tmp_path: Path) -> None:
    tasks = [task_file(tmp_path, f"task{index}.json", name) for index, name in enumerate(names)]
    out = tmp_path / "out"
    found = run("evaluate", "baseline", *tasks, "--out", out)
    assert isinstance(found.exception, OptionError)
    assert "Two tasks are called" in found.exception.message
    assert not out.exists()


def test_a_comparison_writes_its_table_and_picture(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    task = task_file(tmp_path, "task.json", "t")
    assert run("compare", "baseline", "--task", task, "--out", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8").startswith("| system | TF-IDF")
    assert (tmp_path / "out" / "accuracy.svg").read_text(encoding="utf-8").startswith("<svg xmlns=")
    twice = run("compare", "baseline", "baseline", "--task", task, "--out", tmp_path / "twice")
    assert isinstance(twice.exception, OptionError)


def test_a_path_may_hold_a_plus(tmp_path: Path) -> None:
    model, adapter = tmp_path / "c++" / "model", tmp_path / "run+1" / "adapter"
    for folder in (model, adapter):
        folder.mkdir(parents=True)
    whole = parse_system(str(model))
    assert (whole.model, whole.adapter) == (str(model), None)
    both = parse_system(f"{model}+{adapter}")
    assert (both.model, both.adapter) == (str(model), adapter)
    named = parse_system(f"smollm2+{adapter}")
    assert (named.model, named.adapter) == ("smollm2", adapter)
