"""The command on a terminal and in a pipe: answers, names and encodings that would harm, and signals at any moment."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
from matrix import mostly_long
from patience import SECONDS
from pseudo_terminal import Terminal, as_from_a_shell
from reciting_model import ENDLESS, THINKING, write_reciting_model
from said import without_progress

HOSTILE_SHOWN = r"\x1b]8;hi\x07 \x9b2J\x0d\u200d" + "\u00e9"
"""The answer of the model `speaker`, as a terminal may show it."""
EVIL_BYTES = b"b\xff\x1b[31m[bold][/]"
EVIL_SHOWN = r"b\udcff\x1b[31m[bold][/]"
GREEDY = ("--temperature", "0", "--threads", "1")


def command(*arguments: str | bytes, home: Path, stdin: bytes = b"", **environment: str) -> tuple[int, bytes, str]:
    """Exit code, stdout, and what stderr says besides progress."""
    given = {"LANDRACE_HOME": str(home), "COLUMNS": "1000", "OMP_NUM_THREADS": "1", **environment}
    line = [sys.executable, "-m", "landrace", *arguments]
    done = subprocess.run(line, capture_output=True, input=stdin, env={**os.environ, **given})
    assert b"Traceback" not in done.stderr
    assert not set(done.stderr) & {0x1B, 0x0D, 0x07}
    return done.returncode, done.stdout, without_progress(done.stderr.decode())


def test_an_answer_is_visible_on_a_terminal(speaker: Path, tmp_path: Path) -> None:
    terminal = Terminal("run", str(speaker), "hello", *GREEDY, home=tmp_path)
    assert terminal.end() == 0
    # The progress line before it has colours of its own.
    assert terminal.shown.decode().endswith(HOSTILE_SHOWN + "\r\n")


def test_an_answer_is_itself_in_a_pipe(speaker: Path, hostile: str, tmp_path: Path) -> None:
    assert command("run", str(speaker), "hello", *GREEDY, home=tmp_path)[:2] == (0, f"{hostile}\n".encode())


@pytest.mark.parametrize(
    "encoding", mostly_long(("ascii:strict", "latin-1:strict", "cp1252:strict"), ("ascii:strict",))
)
def test_an_answer_survives_every_encoding(encoding: str, speaker: Path, hostile: str, tmp_path: Path) -> None:
    name = encoding.partition(":")[0]
    said = command("run", str(speaker), "hello", *GREEDY, home=tmp_path, PYTHONIOENCODING=encoding)
    assert said[:2] == (0, f"{hostile}\n".encode(name, "backslashreplace"))
    code, stdout, _ = command("run", str(speaker), "x", "--json", *GREEDY, home=tmp_path, PYTHONIOENCODING=encoding)
    assert (code, json.loads(stdout.decode(name))["text"]) == (0, hostile)


def test_names_that_are_not_utf_8(speaker: Path, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/" + EVIL_BYTES
    shutil.copytree(os.fsencode(speaker), folder)
    code, stdout, _ = command("show", folder, home=tmp_path)
    assert code == 0
    assert EVIL_SHOWN in stdout.decode()
    assert b"\x1b" not in stdout
    code, stdout, _ = command("show", "--json", folder, home=tmp_path)
    assert json.loads(stdout)["path"] == os.fsdecode(folder)
    rows = folder + b".jsonl"
    Path(os.fsdecode(rows)).write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    code, _, stderr = command("tune", folder, rows, "--out", folder + b" out/run", home=tmp_path)
    assert (code, EVIL_SHOWN in stderr) == (0, True), stderr
    tuned = command("tune", folder, rows, "--out", folder + b" out/again", "--json", home=tmp_path)
    assert os.fsencode(json.loads(tuned[1])["weights"]).startswith(folder)


def test_hostile_tasks_are_evaluated_and_compared(speaker: Path, tmp_path: Path) -> None:
    labels = ["a\x1b[2J[bold]", "b\u202e[/]"]
    task = {"name": "t\x1b[31m|\n[/]", "kind": "classification", "data": "d.jsonl", "template": "{text}",
            "labels": labels, "fields": {"id": "id", "answer": "a", "groups": ["g\x07"]}, "max_tokens": 2}  # fmt: skip
    rows = [{"id": f"r{n}\x07", "text": "x\x1b]0;t\x07", "a": labels[n % 2], "g\x07": "\x1b[1m[/]\n"} for n in range(4)]
    (tmp_path / "t.json").write_text(json.dumps(task))
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task_file, out = str(tmp_path / "t.json"), os.fsencode(tmp_path) + b"/" + EVIL_BYTES
    code, stdout, stderr = command("evaluate", str(speaker), task_file, "--out", out, home=tmp_path)
    assert code == 0, stderr
    assert r"t\x1b[31m|\x0a[/]" in stdout.decode()
    assert not set(stdout) & {0x1B, 0x07}
    other = os.fsencode(tmp_path) + b"/" + EVIL_BYTES + b"\n"
    os.symlink(speaker, other)
    systems = (str(speaker), other, "--task", task_file)
    code, stdout, stderr = command("compare", *systems, "--out", out + b" cmp", home=tmp_path)
    assert code == 0, stderr
    assert not set(stdout) & {0x1B, 0x07}


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", EVIL_BYTES),
        ("run", EVIL_BYTES, "hi"),
        ("tune", EVIL_BYTES, EVIL_BYTES),
        ("evaluate", EVIL_BYTES, EVIL_BYTES),
        ("compare", EVIL_BYTES, "baseline", "--task", EVIL_BYTES),
        ("certify", EVIL_BYTES),
        ("serve", EVIL_BYTES, "--port", "0"),
        ("serve", "x", "--adapter", EVIL_BYTES),
        ("pull", EVIL_BYTES),
        ("remove", EVIL_BYTES, "--yes"),
        ("bench", EVIL_BYTES),
    ],
)
def test_errors_show_names_safely(arguments: tuple[str | bytes, ...], tmp_path: Path) -> None:
    code, stdout, stderr = command(*arguments, home=tmp_path, PYTHONIOENCODING="ascii")
    assert (code, stdout) == (1, b"")
    assert stderr.startswith("error: ")


@pytest.mark.parametrize("argument", [b"--no\x1b[31m[/]", b"--top-k=\x1b[2J"])
def test_misuse_is_an_error_like_any_other(argument: bytes, tmp_path: Path) -> None:
    code, _, stderr = command("run", "model", argument, home=tmp_path)
    assert code == 2
    assert stderr.startswith("error: ")
    assert "--help" in stderr


def test_input_that_is_no_text_is_refused_and_a_chat_goes_on(speaker: Path, hostile: str, tmp_path: Path) -> None:
    for arguments, stdin in ((("-",), b"a\xff"), ((b"a\xff",), b""), (("a", "--system", b"\xff"), b"")):
        code, stdout, stderr = command("run", str(speaker), *arguments, home=tmp_path, stdin=stdin)
        assert (code, stdout) == (1, b"")
        assert "not valid text" in stderr
    lines = b"a\xff\n\n   \n" + b"\x00\x1b[2J" + b"x" * 5000 + b"\n"
    code, stdout, stderr = command("run", str(speaker), *GREEDY, home=tmp_path, stdin=lines)
    assert code == 0
    assert stderr.count("error: ") == 1
    assert stdout.decode().count(hostile) == 1


def test_a_reader_that_went_away_is_no_error(speaker: Path, tmp_path: Path) -> None:
    for arguments in (("--help",), ("show", str(speaker)), ("show", "--json", str(speaker)), ("list", "--json")):
        reader, writer = os.pipe()
        os.close(reader)
        line = [sys.executable, "-m", "landrace", *arguments]
        environment = {**os.environ, "LANDRACE_HOME": str(tmp_path)}
        done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, env=environment)
        os.close(writer)
        assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b""), arguments


def test_streams_that_are_closed_or_full(tmp_path: Path) -> None:
    for redirect, status in ((">&-", 0), ("<&-", 0), ("2>&-", 0), ("> /dev/full", 1)):
        line = f'"{sys.executable}" -m landrace list --json {redirect}'
        done = subprocess.run(line, shell=True, capture_output=True, env={**os.environ, "LANDRACE_HOME": str(tmp_path)})
        assert done.returncode == status, redirect
        assert b"Traceback" not in done.stderr


def test_ctrl_c_and_ctrl_d_in_a_chat(speaker: Path, tmp_path: Path) -> None:
    chat = Terminal("run", str(speaker), *GREEDY, home=tmp_path)
    chat.wait_for_prompt()
    chat.type("hello\n")
    chat.wait_for(HOSTILE_SHOWN + "\r\n")
    chat.wait_for_prompt()
    chat.type("\x03")
    chat.wait_for("Ctrl-D or /exit ends the chat.")
    chat.wait_for_prompt()
    chat.type("\x04")
    assert chat.end() == 0
    assert b"Traceback" not in chat.shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_chat(number: signal.Signals, speaker: Path, tmp_path: Path) -> None:
    chat = Terminal("run", str(speaker), home=tmp_path)
    chat.wait_for_prompt()
    chat.kill(number)
    assert chat.end() == 128 + number
    assert b"Traceback" not in chat.shown


@pytest.mark.matrix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0.2, 0.4, 0.7, 1.0, 1.4, 2.0])
def test_a_signal_at_any_moment_of_opening(
    seconds: float, number: signal.Signals, speaker: Path, tmp_path: Path
) -> None:
    """After so much processor time, or where the chat waits for its first line."""
    line = [sys.executable, "-m", "landrace", "run", str(speaker)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, preexec_fn=as_from_a_shell)
    assert process.stderr is not None
    times = psutil.Process(process.pid).cpu_times
    while times().user + times().system < seconds and not select.select([process.stderr], [], [], 0.01)[0]:
        assert process.poll() is None
    process.send_signal(number)
    _, told = process.communicate(timeout=SECONDS)
    # Before the command's own code runs, SIGTERM has its plain effect.
    assert process.returncode in (128 + number, -signal.SIGTERM), told
    assert b"Traceback" not in told
    assert b"terminate called" not in told


def test_nohup_is_respected(speaker: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "landrace", "run", str(speaker)]
    process = subprocess.Popen(
        line,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert process.stderr is not None
    while b"Type a message" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    process.communicate(b"/exit\n", timeout=SECONDS)
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_server_ends_with_its_engines(number: signal.Signals, speaker: Path, tmp_path: Path) -> None:
    terminal = Terminal("serve", str(speaker), "--port", "0", home=tmp_path)
    terminal.wait_for("Ctrl-C ends it.")
    port = re.search(rb"localhost:([0-9]+)", terminal.shown)
    assert port is not None
    urllib.request.urlopen(f"http://127.0.0.1:{int(port[1])}/health", timeout=SECONDS).close()
    children = psutil.Process(terminal.pid).children(recursive=True)
    assert children
    terminal.kill(number)
    assert terminal.end() == 0
    _, alive = psutil.wait_procs(children, timeout=SECONDS)
    assert alive == []
    assert b"Traceback" not in terminal.shown


def test_thoughts_are_dimmed(tmp_path: Path) -> None:
    folder = write_reciting_model(tmp_path / "model", tmp_path / "extras", ENDLESS, THINKING)
    terminal = Terminal("run", str(folder), "Is it?", "--think", "3", *GREEDY, home=tmp_path)
    assert terminal.end() == 0
    assert b"\x1b[2mHm\x1b[0m\x1b[2m So\x1b[0m\x1b[2m Hm\x1b[0m\r\n\r\nSure." in terminal.shown
