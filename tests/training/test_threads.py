"""Which number of threads a run settles on while others use the processors."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time

import pytest
import torch
from patience import SECONDS

from landrace.training import trainer
from landrace.training.data import CompletionRow
from landrace.training.log import read_log
from landrace.training.options import TuneOptions
from landrace.training.threads import ThreadChoice, waited_seconds


def settle(most, cost, waited, steps=60):
    """The counts that a run of `steps` used: cost(n) seconds a token, waited(n) of the time for processors."""
    used = []
    choice = ThreadChoice(most, use=lambda count: None)
    for _ in range(steps):
        used.append(choice.now)
        choice.report(cost(choice.now), waited(choice.now))
    return used, choice


@pytest.mark.parametrize("most", [1, 2, 3, 8, 16])
def test_on_a_quiet_machine_nothing_is_tried(most):
    used, _ = settle(most, lambda n: 1 / n, lambda n: 0.02)
    assert set(used) == {most}


@pytest.mark.parametrize("most", [2, 3, 8, 16])
def test_among_others_it_soon_takes_fewer_and_keeps_looking(most):
    """Every thread more waits longer for its turn."""
    used, _ = settle(most, lambda n: float(n), lambda n: 0.5, steps=100)
    assert used[1] == most // 2 and 1 in used
    assert sum(count == 1 for count in used[-50:]) > 40
    assert max(used[50:]) <= 2


def test_fewer_threads_that_are_no_faster_are_left_again():
    used, _ = settle(4, lambda n: 1 / n, lambda n: 0.5, steps=100)
    assert used.count(2) <= 6 and used.count(4) >= 94 and used[-1] == 4


def test_all_threads_are_back_when_the_others_have_gone():
    choice = ThreadChoice(2, use=lambda count: None)
    for _ in range(20):
        choice.report(2.0 if choice.now == 2 else 1.0, 0.6)
    assert choice.now == 1
    for _ in range(40):
        choice.report(1 / choice.now, 0.0)
    assert choice.now == 2


def test_the_count_is_put_back_at_the_end():
    counts = []
    choice = ThreadChoice(2, use=counts.append)
    choice.report(1.0, 0.9)
    choice.restore()
    choice.restore()
    assert counts == [1, 2]


@pytest.mark.parametrize("choose", [False, True])
def test_a_run_tells_the_threads_of_each_step(tiny_decoder, byte_tokenizer, tmp_path, monkeypatch, choose):
    """Every step was kept from a processor all the time; only a run that was given the choice changes its number."""
    seconds = itertools.count(step=1e6)
    monkeypatch.setattr(trainer, "waited_seconds", lambda: next(seconds))
    rows = [CompletionRow(f"f, line {n}", f"say {n}", "x") for n in range(8)]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        choice = ThreadChoice() if choose else None
        options = TuneOptions(batch_examples=1, rank=2)
        result = trainer.tune(tiny_decoder(), byte_tokenizer(), rows, options, out=tmp_path / "run", threads=choice)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    counts = [step.threads for step in result.steps]
    assert counts[:2] == [2, 1] if choose else counts == [2] * 8
    assert [step.threads for step in read_log(tmp_path / "run" / "log.jsonl")] == counts


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
def test_waiting_for_a_processor_is_seen():
    """A thread of ours that never sleeps, on a processor that another process wants as well; asked while it lives,
    as the threads of a step do."""
    import os

    allowed = os.sched_getaffinity(0)
    only = {min(allowed)}
    other = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {only}); print(flush=True)\nwhile True: pass"],
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout is not None
        other.stdout.readline()
        os.sched_setaffinity(0, only)
        begun, before = time.monotonic(), waited_seconds()
        spun, asked = threading.Event(), threading.Event()

        def spin() -> None:
            while waited_seconds() - before < 0.1 and time.monotonic() < begun + SECONDS:
                pass
            spun.set()
            asked.wait()

        spinner = threading.Thread(target=spin)
        spinner.start()
        spun.wait()
        waited = waited_seconds() - before
        asked.set()
        spinner.join()
        assert waited > 0.1
    finally:
        os.sched_setaffinity(0, allowed)
        other.kill()
        other.wait()
        assert other.stdout is not None
        other.stdout.close()
