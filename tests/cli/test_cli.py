"""The command line as a person meets it: real processes, real exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import ANY

import pytest
from said import without_progress

from landrace.cli.console import human_bytes
from landrace.cli.serve import parse_adapters
from landrace.cli.systems import parse_system
from landrace.cli.tune import training_rows
from landrace.errors import DataError, OptionError
from landrace.evaluation.task import load_task
from landrace.model import open_engine
from landrace.training.data import CompletionRow

VERBS = (
    "run",
    "serve",
    "ps",
    "stop",
    "pull",
    "list",
    "show",
    "remove",
    "embed",
    "rerank",
    "tune",
    "evaluate",
    "compare",
    "certify",
    "quantize",
    "demo",
    "bench",
)


def landrace(*arguments: str, home: Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LANDRACE_HOME": str(home), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "landrace", *arguments], capture_output=True, text=True, env=environment, input=text
    )


def test_every_verb_explains_itself(tmp_path: Path) -> None:
    top = landrace("--help", home=tmp_path)
    assert top.returncode == 0
    for verb in VERBS:
        assert verb in top.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(verb: str, tmp_path: Path) -> None:
    done = landrace(verb, "--help", home=tmp_path)
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_version(tmp_path: Path) -> None:
    done = landrace("--version", home=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("landrace ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "no-such-model", "hello"),
        ("show", "no-such-model"),
        ("certify", "no-such-model"),
        ("serve", "no-such-model", "--port", "0"),
        ("evaluate", "no-such-model", "no-such-task.json"),
        ("compare", "no-such-model", "baseline", "--task", "no-such-task.json"),
        ("tune", "no-such-model", "no-such-rows.jsonl"),
        ("tune", "smollm2", "rows.jsonl", "--rank", "0"),
        ("run", "smollm2", "hello", "--temperature", "-1"),
        ("run", "smollm2", "hello", "--raw", "--system", "Be brief."),
        ("run", "smollm2", "hello", "--repetition-penalty", "1e-46"),
        ("serve", "smollm2", "--max-running", "8", "--max-step-tokens", "4"),
        ("serve", "smollm2", "--max-length", "32768"),
        ("run", "smollm2", "--json"),
        ("serve", "smollm2", "--adapter", "nonsense"),
        ("remove", "no-such-model", "--yes"),
        ("pull", "../escape"),
    ],
)
def test_errors_are_a_sentence(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = landrace(*arguments, home=tmp_path / "home")
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert without_progress(done.stderr).startswith("error: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_error_text_from_outside_is_not_markup(tmp_path: Path) -> None:
    done = landrace("show", "[bold]x[/bold]", home=tmp_path)
    assert "[bold]x[/bold]" in done.stderr


def test_an_empty_store_lists_as_json(tmp_path: Path) -> None:
    done = landrace("list", "--json", home=tmp_path)
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_show_as_json(smollm2_path: Path, tmp_path: Path) -> None:
    done = landrace("show", str(smollm2_path), "--json", home=tmp_path)
    facts = json.loads(done.stdout)
    assert facts["layers"] == 30
    assert facts["parameters"] == "134.5 million"
    serving = open_engine(str(smollm2_path))
    usual, _, smaller = facts["cache"].partition(" on this machine")
    told, _, kept_in = usual.partition(" a token in ")
    assert told == human_bytes(serving.engine.cache_bytes_per_token)
    assert kept_in == ("float32" if serving.kernels == "reference" else "float16")
    if serving.kernels == "cpu":
        # 30 layers, 3 heads of 64 for keys and values: bytes and a scale of 4; half bytes and two times 4 bytes.
        assert smaller == f" ({human_bytes(30 * 6 * 68)} in int8, {human_bytes(30 * 6 * 40)} in int4)"


@pytest.mark.long
def test_run_prints_what_transformers_generates(smollm2_path: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    exact = ("--kernels", "reference")
    done = landrace(
        "run", str(smollm2_path), "What is gravity?", "--max-tokens", "40", "--temperature", "0", *exact, home=tmp_path
    )
    assert done.returncode == 0, done.stderr
    folder, name = str(smollm2_path.parent), smollm2_path.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    messages = [{"role": "user", "content": "What is gravity?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**prompt, max_new_tokens=40, do_sample=False)
    expected = tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert done.stdout == expected + "\n"


def test_chat_keeps_the_conversation(smollm2_path: Path, tmp_path: Path) -> None:
    done = landrace(
        *("run", str(smollm2_path), "--temperature", "0", "--max-tokens", "12"),
        home=tmp_path,
        text="My name is Ana.\n/clear\nSay yes.\n/exit\n",
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2
    assert "The conversation is forgotten." in done.stderr


def test_ctrl_c_says_how_to_go_on(smollm2_path: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n} plus {n}?", "completion": str(2 * n)} for n in range(200)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("tune", str(smollm2_path), str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "run"))
    command = [sys.executable, "-m", "landrace", *arguments, "--batch-examples", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"})
    log = tmp_path / "run" / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert "stopped: Stopped after step" in told
    assert "--resume" in told
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_systems() -> None:
    tuned = parse_system("smollm2+runs/support/adapter")
    assert (tuned.model, tuned.adapter, tuned.name) == ("smollm2", Path("runs/support/adapter"), "smollm2 + support")
    assert parse_system("Qwen/Qwen3-0.6B").adapter is None
    for bad in ("+x", "x+"):
        with pytest.raises(DataError):
            parse_system(bad)


def test_adapters() -> None:
    assert parse_adapters(["a=x", "b=y=z"]) == {"a": Path("x"), "b": Path("y=z")}
    for bad in (["a"], ["=x"], ["a="], ["a=x", "a=y"]):
        with pytest.raises(OptionError):
            parse_adapters(bad)


TASK = {"name": "t", "kind": "exact", "template": "{q}", "data": "rows.csv", "max_tokens": 1}


def test_a_path_with_a_plus_is_a_path(tmp_path: Path) -> None:
    model, adapter = tmp_path / "a+b" / "model+1.gguf", tmp_path / "a+b" / "run"
    adapter.mkdir(parents=True)
    model.touch()
    assert parse_system(str(model)).adapter is None
    both = parse_system(f"{model}+{adapter}")
    assert (both.model, both.adapter) == (str(model), adapter)


def test_tune_tells_rows_from_a_task_by_what_the_file_holds(tmp_path: Path) -> None:
    rows = [{"question": "q", "completion": "a"}]
    names = {"question": "prompt"}
    for text in (json.dumps(rows), json.dumps(rows[0]), json.dumps(rows[0]) + "\n" + json.dumps(rows[0])):
        (tmp_path / "rows.json").write_text(text, encoding="utf-8-sig")
        assert training_rows(tmp_path / "rows.json", names)[0] == CompletionRow(ANY, "q", "a")
    (tmp_path / "rows.csv").write_text("question,answer\nq,a\n")
    for indent in (None, 1):
        task = json.dumps({**TASK, "train": "rows.csv"}, indent=indent)
        (tmp_path / "task.json").write_text(task, encoding="utf-8-sig")
        (row,) = training_rows(tmp_path / "task.json", {"question": "q"})
        assert [message["content"] for message in row.messages] == ["q", "a"]


def test_a_task_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text(json.dumps({**TASK, "map": {"ask": "q"}}), encoding="utf-8-sig")
    assert load_task(tmp_path / "task.json").map == {"ask": "q"}
    (tmp_path / "task.toml").write_text(
        'name = "t"\nkind = "exact"\ntemplate = "{q}"\n[map]\nask = "q"\n', encoding="utf-8-sig"
    )
    (tmp_path / "rows").write_text("ask,answer\nwhat?,that\n")
    assert load_task(tmp_path / "task.toml").load(tmp_path / "rows").rows[0].inputs == {"q": "what?"}


def test_a_measurement_in_which_every_row_failed_is_an_error(smollm2_path: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("ask,answer\n" + "word " * 9000 + ",x\n")
    (tmp_path / "task.json").write_text(json.dumps(TASK))
    common = ("--map", "ask=q", "--out", str(tmp_path / "out"))
    for arguments in (
        ("evaluate", str(smollm2_path), str(tmp_path / "task.json"), *common),
        ("compare", str(smollm2_path), "baseline", "--task", str(tmp_path / "task.json"), *common),
    ):
        done = landrace(*arguments, home=tmp_path / "home")
        assert done.returncode == 1, done.stderr
        assert "error: All 1 rows of t failed on" in done.stderr
        assert "tokens" in done.stderr


def test_tune_says_what_it_left_out(smollm2_path: Path, tmp_path: Path) -> None:
    """Answers are counted as answers, and columns that mean nothing are named once."""
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "word " * 60}]
    rows: list[dict[str, object]] = [{"messages": turns * 3, "id": 1}, {"prompt": "p", "completion": "c", "id": 2}]
    rows += [{"prompt": "p", "completion": "c", "weight": 0}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    done = landrace(
        *("tune", str(smollm2_path), str(tmp_path / "rows.json"), "--out", str(tmp_path / "run")),
        *("--max-length", "40", "--targets", "q_proj", "--rank", "1"),
        home=tmp_path / "home",
    )
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stderr.split())
    assert "3 answers too long for max_length, left out: " in told
    assert "1 row with nothing to learn, left out: " in told
    assert "the column 'id' is not used (2 of 3 rows)" in told
    record = json.loads((tmp_path / "run" / "tune.json").read_text())["data"]
    assert (record["rows"], record["answers"], record["too_long"], record["excluded"]) == (3, 1, 3, 1)


def test_every_bad_row_of_a_file_is_named_at_once(smollm2_path: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p", "completion": "c", "label": false}\nnull\n{"text": ["x"]}\n')
    done = landrace("tune", str(smollm2_path), str(tmp_path / "rows.jsonl"), home=tmp_path / "home")
    told = " ".join(done.stderr.split())
    assert done.returncode == 1
    assert "line 1: 'label' says whether the answer is good" in told
    assert "line 2: the row is null" in told
    assert "line 3: 'text' is a list" in told
