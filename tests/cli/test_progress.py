"""What is said while something takes long and the output is no terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest

from landrace.cli import progress
from landrace.cli.progress import byte_progress, count_progress, plain_lines, spinner


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)


def test_a_line_comes_by_itself_while_one_step_takes_long(capsys: pytest.CaptureFixture[str]) -> None:
    with count_progress("tuning [bold]x") as report:
        time.sleep(0.3)
        report(3, 9, "loss 1.5")
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"tuning \[bold\]x \(\d+ s\)", lines[0])
    assert re.fullmatch(r"tuning \[bold\]x: 3 of 9, loss 1\.5 \(\d+ s\)", lines[-1])
    assert len(lines) >= 4


def test_loading_and_fetching_are_said_too(capsys: pytest.CaptureFixture[str]) -> None:
    with spinner("opening tiny"):
        time.sleep(0.2)
    assert capsys.readouterr().err.startswith("opening tiny (")
    with byte_progress() as fetched:
        fetched("downloading", 1_500_000, 3_000_000)
        time.sleep(0.2)
        fetched("unpacking", 5, None)
        time.sleep(0.2)
    told = capsys.readouterr().err
    assert "downloading: 1.5 MB of 3.0 MB (" in told and "unpacking: 5 B (" in told


def test_nothing_is_said_of_what_is_quick_nor_after_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 60.0)
    with plain_lines("first"):
        pass
    assert capsys.readouterr().err == ""


def test_short_works_in_a_row_leave_no_long_silence(capsys: pytest.CaptureFixture[str]) -> None:
    """The time to the next line counts from the last one, whichever work wrote it."""
    for number in range(20):
        with spinner(f"work {number}"):
            time.sleep(0.02)
    assert len(capsys.readouterr().err.splitlines()) >= 4


def test_waiting_threads_may_sleep_and_the_users_word_stands() -> None:
    """Read by OpenMP when PyTorch is loaded, so `main` has to say it before."""
    code = (
        "import os, sys; from landrace.cli import main as m; sys.argv = ['landrace', '--version']; "
        "m.app = lambda **_: print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT')); m.main()"
    )

    def told(**given: str) -> str:
        quiet = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
        done = subprocess.run([sys.executable, "-c", code], env=quiet | given, capture_output=True, text=True)
        return done.stdout.strip()

    assert told() == "False 1000"
    assert told(GOMP_SPINCOUNT="7") == "False 7"
    assert told(OMP_WAIT_POLICY="active") == "False None"
