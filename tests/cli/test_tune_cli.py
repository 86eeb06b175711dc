"""`tune` as a person meets it: what is measured on which rows, runs that fail, folders that cannot be written."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from landrace.cli.tune import held_out_rows, training_rows
from landrace.errors import DataError, OptionError
from landrace.model import open_model
from landrace.training import result
from landrace.training.log import StepReport
from landrace.training.overlap import count_shared

Landrace = Callable[..., tuple[int, str, str]]
QUICK = ("--max-steps", "3", "--batch-examples", "2", "--rank", "2", "--threads", "1", "--precision", "float32")


def write_rows(path: Path, numbers: range) -> Path:
    rows = [{"id": str(n), "text": f"number {n}", "label": "even" if n % 2 == 0 else "odd"} for n in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_task(folder: Path, train: range, data: range) -> Path:
    write_rows(folder / "train.jsonl", train)
    write_rows(folder / "test.jsonl", data)
    task = {
        "name": "parity",
        "kind": "classification",
        "data": "test.jsonl",
        "train": "train.jsonl",
        "template": "{text}?",
        "labels": ["even", "odd"],
        "fields": {"id": "id", "answer": "label"},
        "max_tokens": 2,
    }
    path = folder / "task.json"
    path.write_text(json.dumps(task))
    return path


def completions(path: Path, numbers: range) -> Path:
    path.write_text("".join(json.dumps({"prompt": f"{n}+{n}=", "completion": str(2 * n)}) + "\n" for n in numbers))
    return path


def test_the_validation_of_a_task_is_its_held_out_rows(tiny_model: Path, landrace: Landrace, tmp_path: Path) -> None:
    task = make_task(tmp_path, range(6), range(10, 14))
    assert [row.messages[0]["content"] for row in held_out_rows(task)] == [f"number {n}?" for n in range(10, 14)]
    assert count_shared(held_out_rows(task), training_rows(task)) == 0
    out = tmp_path / "run"
    code, _, told = landrace("tune", str(tiny_model), str(task), "--validation", str(task), "--out", str(out), *QUICK)
    assert code == 0, told
    assert "validation rows are training rows" not in told
    assert json.loads((out / "tune.json").read_text())["validation_data"]["rows"] == 4


@pytest.mark.parametrize(("own", "shared"), [(range(8), 8), (range(5, 12), 3), (range(20, 23), 0)])
def test_validation_rows_that_are_trained_on_are_counted(
    tiny_model: Path, landrace: Landrace, tmp_path: Path, own: range, shared: int
) -> None:
    data, checked = completions(tmp_path / "a.jsonl", range(8)), completions(tmp_path / "b.jsonl", own)
    code, _, told = landrace(
        "tune", str(tiny_model), str(data), "--validation", str(checked), "--out", str(tmp_path / "run"), *QUICK
    )
    assert code == 0, told
    words = f"{shared} of the {len(own)} validation rows are training rows as well"
    assert (words in told) == (shared > 0)


@pytest.mark.parametrize(("asked", "shared"), [(range(6), 6), (range(4, 8), 2), (range(10, 14), 0)])
def test_evaluated_rows_that_an_adapter_was_tuned_on_are_counted(
    tiny_model: Path, landrace: Landrace, tmp_path: Path, asked: range, shared: int
) -> None:
    task = make_task(tmp_path, range(6), asked)
    assert landrace("tune", str(tiny_model), str(task), "--out", str(tmp_path / "run"), *QUICK)[0] == 0
    system = f"{tiny_model}+{tmp_path / 'run' / 'adapter'}"
    code, _, told = landrace("evaluate", system, str(task), "--out", str(tmp_path / "scores"), "--threads", "1")
    assert code == 0, told
    assert (f"was trained on {shared} of the {len(asked)} rows of parity" in told) == (shared > 0)
    stored = next((tmp_path / "scores").rglob("*.evaluation.json"))
    code, report, told = landrace(
        "compare", str(stored), "baseline", "--task", str(task), "--out", str(tmp_path / "both"), "--threads", "1"
    )
    assert code == 0, told
    assert (f"tiny + run was trained on {shared} of {len(asked)} rows of the task" in report) == (shared > 0)
    assert (f"baseline was trained on {shared} of the {len(asked)} rows of parity" in told) == (shared > 0)


def test_a_run_that_diverges_at_once_leaves_its_folder_free(
    tiny_model: Path, landrace: Landrace, tmp_path: Path
) -> None:
    data, out = completions(tmp_path / "rows.jsonl", range(8)), tmp_path / "runs" / "x"
    command = ("tune", str(tiny_model), str(data), "--out", str(out), *QUICK)
    code, _, told = landrace(*command, "--lr", "1e30", "--save-every", "1")
    assert code == 1
    assert "error: The loss" in told and " in step " in told and "hint: Start again with a lower learning_rate." in told
    assert not out.exists()
    assert landrace(*command, "--resume")[2].startswith(f"error: {out} has no checkpoint to resume from.")
    assert landrace(*command, "--lr", "1e-3")[0] == 0
    code, _, told = landrace(*command)
    assert code == 1 and "already holds a training run" in told and "--resume" not in told


@pytest.mark.parametrize(
    ("rate", "words"), [("1e-30", "Nothing was learnt"), ("1e4", "became worse on its own training rows")]
)
def test_a_rate_that_trains_nothing_is_said(
    tiny_model: Path, landrace: Landrace, tmp_path: Path, rate: str, words: str
) -> None:
    data, out = completions(tmp_path / "rows.jsonl", range(8)), tmp_path / "run"
    code, _, told = landrace("tune", str(tiny_model), str(data), "--out", str(out), *QUICK, "--lr", rate)
    assert code == 0 and words in told
    assert words in json.loads((out / "tune.json").read_text())["remarks"][0]


def test_ctrl_c_while_the_result_is_written_loses_nothing(
    tiny_model: Path, landrace: Landrace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(reports: list[StepReport], path: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(result, "draw_loss", interrupted)
    data, out = completions(tmp_path / "rows.jsonl", range(8)), tmp_path / "run"
    code, _, told = landrace("tune", str(tiny_model), str(data), "--out", str(out), *QUICK)
    assert code == 0, told
    assert (out / "adapter" / "adapter_model.safetensors").exists() and (out / "tune.json").exists()


@pytest.mark.parametrize("verb", ["tune", "evaluate", "compare", "demo"])
@pytest.mark.parametrize("place", ["a file", "under a file", "forbidden"])
def test_a_folder_that_cannot_be_is_said_before_the_work(
    tiny_model: Path, landrace: Landrace, tmp_path: Path, verb: str, place: str
) -> None:
    task = make_task(tmp_path, range(6), range(10, 14))
    (tmp_path / "taken").write_text("mine")
    folders = {"a file": tmp_path / "taken", "under a file": tmp_path / "taken" / "x" / "y", "forbidden": "/proc/x/y"}
    arguments = {
        "tune": ("tune", str(tiny_model), str(task)),
        "evaluate": ("evaluate", str(tiny_model), str(task)),
        "compare": ("compare", str(tiny_model), "baseline", "--task", str(task)),
        "demo": ("demo", "--task", str(task)),
    }
    if verb == "demo":
        pytest.importorskip("openai")
    code, out, told = landrace(*arguments[verb], "--out", str(folders[place]))
    assert code == 1 and out == ""
    assert "\nerror: " in f"\n{told}" and "--out" in told and "step" not in told
    assert (tmp_path / "taken").read_text() == "mine"


def test_both_dtypes_are_names(tiny_model: Path) -> None:
    for names in ({"dtype": "float33"}, {"product_dtype": "float33"}):
        with pytest.raises(OptionError, match="no dtype 'float33'"):
            open_model(str(tiny_model), **names)
    decoder = open_model(str(tiny_model), dtype="float32", product_dtype="bfloat16").decoder
    assert (str(decoder.dtype), str(decoder.product_dtype)) == ("torch.float32", "torch.bfloat16")


def test_a_task_without_held_out_rows_has_no_validation(tmp_path: Path) -> None:
    task = make_task(tmp_path, range(4), range(4))
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        held_out_rows(task)
