"""What a run leaves when its loss stops being a number, or its disk is full."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from landrace.checkpoints import write
from landrace.errors import CheckpointError, OptionError
from landrace.training.checkpoint import checkpoints
from landrace.training.data import CompletionRow
from landrace.training.log import StepReport, TrainingLog, read_log
from landrace.training.optimizer import DivergedError
from landrace.training.options import TuneOptions
from landrace.training.result import describe, remarks
from landrace.training.trainer import tune

ROWS = [CompletionRow(f"f, line {n}", f"say {n}", f"{n * n}") for n in range(16)]
STEPS = 8
LORA = TuneOptions(epochs=2, batch_examples=4, rank=4, alpha=8.0, learning_rate=1e-2, keep_checkpoints=20)
FULL = replace(LORA, method="full", learning_rate=1e-3)


def poison_after(decoder, step):
    """From the end of `step` on, nothing that the decoder computes is a number."""

    def on_step(report: StepReport) -> None:
        if report.step == step:
            with torch.no_grad():
                decoder.norm.weight.fill_(float("nan"))

    return on_step


@pytest.fixture(scope="module")
def straight(tiny_decoder, byte_tokenizer, tmp_path_factory):
    """Checkpoint by number of steps, of a run in which nothing went wrong."""
    found = {}
    for options in (LORA, FULL):
        out = tmp_path_factory.mktemp(options.method)
        result = tune(tiny_decoder(), byte_tokenizer(), ROWS, replace(options, save_every=1), out=out)
        assert all(step.loss <= result.steps[0].loss for step in result.steps)  # so that every step is a good one
        for path in checkpoints(out / "checkpoints"):
            found[options.method, int(path.name[5:])] = load_file(path / "weights.safetensors")
    return found


def same(tensors, weights):
    assert tensors.keys() == weights.keys()
    return all(torch.equal(tensors[name], weights[name]) for name in tensors)


@pytest.mark.matrix
@pytest.mark.parametrize("save_every", [None, 1, 3])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_an_adapter_of_before_the_bad_update_is_left(
    tiny_decoder, byte_tokenizer, tmp_path, straight, step, save_every
):
    """The update of `step` is bad, which the next loss tells (after the last step: the look at what came of it)."""
    out, decoder, options = tmp_path / "run", tiny_decoder(), replace(LORA, save_every=save_every)
    with pytest.raises(DivergedError) as caught:
        tune(decoder, byte_tokenizer(), ROWS, options, out=out, on_step=poison_after(decoder, step))
    told = caught.value
    assert f"became nan in step {min(step + 1, STEPS)}." in told.message
    assert "lower learning_rate" in told.hint
    good = step - 1
    if good == 0:
        assert told.result is None and not out.exists()
        tune(tiny_decoder(), byte_tokenizer(), ROWS, options, out=out)
        return
    assert "another folder" in told.hint
    assert same(told.result.tensors, straight["lora", good])
    assert [report.step for report in told.result.steps] == list(range(1, good + 1))
    assert told.message in remarks(told.result)[0] and describe(told.result)["steps"] == good
    left = [path.name for path in checkpoints(out / "checkpoints")]
    assert left == [f"step-{n:08d}" for n in range(1, good + 1) if save_every and n % save_every == 0]
    if left:
        resumed = tune(tiny_decoder(), byte_tokenizer(), ROWS, options, out=out, resume=True)
        assert resumed.diverged is None and len(resumed.steps) == STEPS
        return
    with pytest.raises(OptionError, match="no checkpoint to resume"):
        tune(tiny_decoder(), byte_tokenizer(), ROWS, options, out=out, resume=True)
    with pytest.raises(OptionError, match="already holds") as refused:
        tune(tiny_decoder(), byte_tokenizer(), ROWS, options, out=out)
    assert "--resume" not in refused.value.hint


@pytest.mark.parametrize(("step", "save_every", "good"), [(6, 1, 5), (6, 3, 3), (3, 3, 0), (5, None, 0), (8, 2, 6)])
def test_all_weights_go_back_to_the_newest_good_checkpoint(
    tiny_decoder, byte_tokenizer, tmp_path, straight, step, save_every, good
):
    out, decoder, options = tmp_path / "run", tiny_decoder(), replace(FULL, save_every=save_every)
    with pytest.raises(DivergedError) as caught:
        tune(decoder, byte_tokenizer(), ROWS, options, out=out, on_step=poison_after(decoder, step))
    if good == 0:
        assert caught.value.result is None and not out.exists()
    else:
        assert same(caught.value.result.tensors, straight["full", good])
        assert [path.name for path in checkpoints(out / "checkpoints")][-1] == f"step-{good:08d}"


@pytest.mark.parametrize("options", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("rate", [1e10, 1e20, 1e30])
def test_a_huge_rate_never_leaves_what_cannot_be_used(tiny_decoder, byte_tokenizer, tmp_path, options, rate):
    out = tmp_path / "run"
    try:
        result = tune(
            tiny_decoder(), byte_tokenizer(), ROWS, replace(options, learning_rate=rate, save_every=1), out=out
        )
    except DivergedError as error:
        assert error.result is None and not out.exists()
    else:
        first = result.steps[0].loss
        assert ("became worse" in "".join(remarks(result))) == (result.loss_after > first)


def test_a_validation_loss_that_is_no_number_is_a_divergence(tiny_decoder, byte_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("landrace.training.trainer.loss_sum", lambda decoder, micro: float("nan"))
    out = tmp_path / "run"
    with pytest.raises(DivergedError, match="validation loss became nan in step 4") as caught:
        tune(tiny_decoder(), byte_tokenizer(), ROWS, LORA, out=out, validation=ROWS[:2])
    assert caught.value.result.steps[-1].step == 3
    assert len(read_log(out / "log.jsonl")) == 3


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_from_before(
    tiny_decoder, byte_tokenizer, tmp_path, straight, monkeypatch
):
    out, options, saved = tmp_path / "run", replace(LORA, save_every=3), []
    real = write.save_file

    def full(*args, **kwargs):
        saved.append(1)
        if len(saved) > 3:  # two files a checkpoint: the second one cannot be finished
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*args, **kwargs)

    monkeypatch.setattr(write, "save_file", full)
    with pytest.raises(CheckpointError, match="could not be written: No space left on device") as caught:
        tune(tiny_decoder(), byte_tokenizer(), ROWS, options, out=out)
    assert "space" in caught.value.hint
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003"]
    monkeypatch.undo()
    resumed = tune(tiny_decoder(), byte_tokenizer(), ROWS, replace(options, save_every=1), out=out, resume=True)
    assert same(load_file(out / "checkpoints" / "step-00000007" / "weights.safetensors"), straight["lora", 7])
    assert len(resumed.steps) == STEPS


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path):
    log = TrainingLog(tmp_path / "log.jsonl", done_steps=0)
    with Path("/dev/full").open("a") as full:
        log.close()
        log._file = full
        with pytest.raises(CheckpointError, match="could not be written: No space left"):
            log.append(StepReport(1, 1, 1, 1.0, 1.0, 1.0, 1, 1, 1.0, 1.0))
        with contextlib.suppress(OSError):
            full.close()
