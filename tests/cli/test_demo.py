"""The demo from its first step to its last, with a tiny model in the place of the one that it pulls."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from landrace.cli import demo
from landrace.evaluation.results import load_evaluation

pytest.importorskip("openai")
pytest.importorskip("sklearn")

Landrace = Callable[..., tuple[int, str, str]]
SCHEMA = {
    "type": "object",
    "properties": {"size": {"enum": ["big", "small"]}, "n": {"type": ["integer", "null"], "minimum": 0, "maximum": 99}},
    "required": ["size", "n"],
    "additionalProperties": False,
}
KINDS: dict[str, dict[str, Any]] = {
    "extraction": {"schema": SCHEMA, "fields": {"answer": "record"}},
    "classification": {"labels": ["big", "small"], "fields": {"answer": "size"}},
}


def write_task(folder: Path, kind: str) -> Path:
    folder.mkdir()
    rows = [{"text": f"{n} of them", "size": "big" if n > 9 else "small"} for n in range(4, 16)]
    for index, row in enumerate(rows):
        row["record"] = {"size": row["size"], "n": None if index % 5 == 0 else index + 4}  # type: ignore[assignment]
    for name, part in (("train", rows[::2]), ("test", rows[1::2])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    task = {"name": "sizes", "kind": kind, "template": "{text}", "data": "test.jsonl", "train": "train.jsonl"}
    path = folder / "task.json"
    path.write_text(json.dumps({**task, **KINDS[kind]}))
    return path


@pytest.mark.parametrize("kind", ["extraction", pytest.param("classification", marks=pytest.mark.long)])
def test_the_whole_story(
    kind: str, roomy_model: Path, landrace: Landrace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "MODEL", str(roomy_model))
    monkeypatch.setattr(demo, "_pull", lambda: None)
    task, out = write_task(tmp_path / kind, kind), tmp_path / "run"
    code, told, noticed = landrace("demo", "--task", str(task), "--out", str(out), "--epochs", "1")
    assert code == 0, noticed
    assert re.findall(r"(\d) of 5", told) == list("12345")
    assert "answered the same in step 4" in told
    before, after, baseline = (
        load_evaluation(out / f"{name}.evaluation.json")
        for name in ("roomy", "roomy-run", "TF-IDF-logistic-regression")
    )
    assert (before.shots, before.guided, after.shots, after.guided, baseline.shots) == (6, True, 0, True, 0)
    assert before.unparsed + after.unparsed == 0
    if kind == "extraction":
        assert before.schema_valid == after.schema_valid == len(after.rows) and baseline.partial
        assert "field n (95%)" in told and "answers fields with a list of values, not whole records" in told


def test_the_default_task_is_there() -> None:
    assert demo._example_task().parent.name == "records"
