"""The command line as a person meets it: real processes, real exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from landrace.cli.serve import parse_adapters
from landrace.cli.systems import parse_system
from landrace.errors import DataError, OptionError

VERBS = ("run", "serve", "pull", "list", "show", "remove", "tune", "evaluate", "compare", "certify", "demo", "bench")


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
    assert done.stderr.startswith("error: ")
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
    assert len(done.stdout.split("> ")) >= 3


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
